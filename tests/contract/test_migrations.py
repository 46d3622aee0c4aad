"""Migrations on a real Postgres."""

from __future__ import annotations

import logging
import secrets
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlmodel import SQLModel
from typer.testing import CliRunner

import shared.tables  # noqa: F401 - fills SQLModel.metadata
from cli.main import app
from deploy.migrate import migrate
from shared.database import Database
from shared.encryption import Cipher, generate_key, verify_key
from shared.errors import ConfigurationError, StoreUnavailable
from shared.settings import Settings
from shared.subscriptions import SubscriptionStore
from tests.stacks import Stack
from tests.system import as_environment


@pytest.fixture
def no_database(stack: Stack) -> Iterator[str]:
    """The URL of a database that does not exist; dropped afterwards."""
    name = f"t{secrets.token_hex(5)}"
    yield urlsplit(stack.database_url)._replace(path=f"/{name}").geturl()
    connection = psycopg2.connect(stack.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'drop database if exists "{name}" with (force)')
    connection.close()


def test_a_missing_database_is_created_and_a_second_run_changes_nothing(no_database: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        migrate(no_database)
        migrate(no_database)
    database = Database(no_database)
    with database.transaction() as connection:
        assert connection.execute(text("select count(*) from subscriptions")).scalar_one() == 0
    database.close()


def test_processes_that_migrate_at_once_all_succeed(no_database: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(migrate, no_database) for _ in range(4)]
    assert [run.result() for run in runs] == [None] * 4


def test_the_schema_of_a_newer_version_is_left_as_it_is(no_database: str) -> None:
    """What an older version needs is in it: one that is rolled back to must start."""
    assert migrate(no_database) is None
    database = Database(no_database)
    with database.transaction() as connection:
        connection.execute(text("update alembic_version set version_num = 'of-a-newer-one'"))
        connection.execute(text("alter table subscriptions add column of_a_newer_one text"))
    assert migrate(no_database) == "of-a-newer-one"
    with database.transaction() as connection:
        assert connection.execute(text("select version_num from alembic_version")).scalar_one() == "of-a-newer-one"
        connection.execute(text("select of_a_newer_one from subscriptions"))
    database.close()


def test_hooklog_migrate_says_that_the_schema_is_newer(topics_ready: Settings) -> None:
    database = Database(topics_ready.database_url.get_secret_value())
    with database.transaction() as connection:
        connection.execute(text("update alembic_version set version_num = 'of-a-newer-one'"))
    database.close()
    done = CliRunner().invoke(app, ["migrate"], env=as_environment(topics_ready))
    assert done.exit_code == 0, done.output
    assert "database: at migration of-a-newer-one of a newer version, left as it is" in done.stdout


def test_migrating_leaves_the_logging_of_its_caller_alone(settings: Settings) -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    migrate(settings.database_url.get_secret_value())
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)


def test_the_tables_are_what_the_classes_say(settings: Settings) -> None:
    """Names, types and nullability, both ways. Indexes and partitions are the migrations' own."""
    database = Database(settings.database_url.get_secret_value())
    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": _ours})
        assert compare_metadata(context, SQLModel.metadata) == []
    database.close()


def _ours(_thing: object, name: str | None, kind: str, reflected: bool, _other: object) -> bool:
    """Neither indexes nor partitions."""
    return kind == "column" or (kind == "table" and not str(name).endswith("_default"))


def test_a_postgres_that_is_not_there_is_store_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        migrate("postgresql://nobody:s3cret-password@127.0.0.1:9/none")


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://h/db", "postgresql://127.0.0.1:5432", "postgresql://h:port/db"]
)
def test_a_url_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: "):
        migrate(url)


def test_the_first_key_is_the_key_and_another_is_refused(settings: Settings) -> None:
    database = Database(settings.database_url.get_secret_value())
    first, other = generate_key(), generate_key()
    verify_key(database, Cipher(first))
    verify_key(database, Cipher(first))
    verify_key(database, Cipher(f"{other},{first}"))
    with pytest.raises(ConfigurationError) as caught:
        verify_key(database, Cipher(other))
    assert str(caught.value).startswith("ENCRYPTION_KEY: ")
    assert other not in str(caught.value)
    database.close()


def test_a_process_of_the_version_before_goes_on_inserting(settings: Settings) -> None:
    """Old and new processes live together during an upgrade: what is new about a subscription has a default."""
    database = Database(settings.database_url.get_secret_value())
    key = settings.encryption_key.get_secret_value()
    columns = (
        "id, tenant, target_url, status, event_types, sealed_signing_keys, created_at, updated_at, version",
        "gen_random_uuid(), 'default', 'https://example.com/', 'active', '{}', :keys, now(), now(), 1",
    )
    with database.transaction() as connection:
        insert = text(f"insert into subscriptions ({columns[0]}) values ({columns[1]})")
        connection.execute(insert, {"keys": Cipher(key).seal(b'["a2V5"]')})
    [subscription] = SubscriptionStore(database, Cipher(key)).list()
    assert (subscription.signing_keys_at(0), subscription.secrets_at(0)) == ((b"key",), ())
    assert subscription.signature_scheme == "hub"
    assert (subscription.rate_limit, subscription.max_in_flight) == (None, None)
    assert (subscription.signing_versions, subscription.private_keys_at(0)) == (("v1",), ())
    database.close()
