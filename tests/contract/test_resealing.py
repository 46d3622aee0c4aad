"""A new ENCRYPTION_KEY: both open, `hooklog migrate` seals again, and then the old one can be left out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from typer.testing import CliRunner

from cli.main import app
from shared.database import Database
from shared.encryption import Cipher, generate_key, verify_key
from shared.errors import ConfigurationError
from shared.resealing import reseal
from shared.settings import Settings
from shared.subscriptions import Found, NewSubscription, Subscription, SubscriptionMap, SubscriptionStore, Unreachable
from tests.eventually import eventually
from tests.system import as_environment

_NEW = NewSubscription(
    "https://example.com/hook", secret=b"incoming", headers=(("X-Key", "credential"),), signing_versions=("v1", "v1a")
)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture
def old(settings: Settings) -> str:
    return settings.encryption_key.get_secret_value()


def _filled(database: Database, key: str, count: int) -> list[Subscription]:
    """Subscriptions with something in every sealed column."""
    verify_key(database, Cipher(key))
    store = SubscriptionStore(database, Cipher(key))
    ids = [store.create(_NEW).subscription.id for _ in range(count)]
    rotated = [store.rotate(one, 3600, b"another") for one in ids]
    return [one.subscription for one in rotated if one]


def test_both_keys_work_and_after_resealing_the_new_one_does_alone(database: Database, old: str) -> None:
    subscriptions, new = _filled(database, old, 7), generate_key()
    both = Cipher(f"{new},{old}")
    assert SubscriptionStore(database, both).list() == subscriptions
    with pytest.raises(ConfigurationError):
        SubscriptionStore(database, Cipher(new)).list()

    assert reseal(database, both, rows_a_batch=3) == len(subscriptions) + 1

    verify_key(database, Cipher(new))
    assert SubscriptionStore(database, Cipher(new)).list() == subscriptions
    with pytest.raises(ConfigurationError):
        verify_key(database, Cipher(old))


def test_a_second_run_finds_nothing_to_do(database: Database, old: str) -> None:
    _filled(database, old, 3)
    both = Cipher(f"{generate_key()},{old}")
    assert reseal(database, both) == 4
    before = _rows(database)
    assert reseal(database, both) == 0
    assert reseal(database, Cipher(old)) == 0
    assert _rows(database) == before


def test_resealing_is_no_change_of_the_subscription_and_leaves_tombstones(database: Database, old: str) -> None:
    kept, deleted = _filled(database, old, 2)
    store = SubscriptionStore(database, Cipher(old))
    store.delete(deleted.id)
    newest = store.feed_start(60).version
    assert reseal(database, Cipher(f"{generate_key()},{old}")) == 2
    assert store.changed_since(newest) == []
    assert kept.version < newest


def test_runs_at_once_with_writers_lose_nothing(database: Database, old: str) -> None:
    subscriptions, new = _filled(database, old, 12), generate_key()
    both = Cipher(f"{new},{old}")
    store = SubscriptionStore(database, both)
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(reseal, database, both, 2) for _ in range(2)]
        writes = [threads.submit(store.set_status, one.id, "paused") for one in subscriptions]
        assert sum(run.result() for run in runs) <= len(subscriptions) + 1
        assert all(write.result() for write in writes)
    after = SubscriptionStore(database, Cipher(new)).list()
    assert [(one.id, one.status, one.secret) for one in after] == [
        (one.id, "paused", b"another") for one in subscriptions
    ]


def test_a_key_that_opens_nothing_is_one_line(database: Database, old: str) -> None:
    _filled(database, old, 1)
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEY"):
        reseal(database, Cipher(f"{generate_key()},{generate_key()}"))


def test_hooklog_migrate_seals_again_and_says_so(topics_ready: Settings, database: Database, old: str) -> None:
    subscriptions, new = _filled(database, old, 2), generate_key()
    environment = as_environment(topics_ready) | {"ENCRYPTION_KEY": f"{new},{old}"}
    done = CliRunner().invoke(app, ["migrate"], env=environment)
    assert done.exit_code == 0, done.output
    assert "secrets: 3 rows sealed again" in done.stdout
    assert new not in done.output
    again = CliRunner().invoke(app, ["migrate"], env=environment)
    assert (again.exit_code, "sealed again" in again.stdout) == (0, False)
    assert SubscriptionStore(database, Cipher(new)).list() == subscriptions


async def test_what_redis_holds_under_the_old_key_is_a_miss(settings: Settings, database: Database, old: str) -> None:
    [subscription], new = _filled(database, old, 1), generate_key()
    assert await _looked_up(settings, subscription.id) == Found(subscription)  # Redis has it from now on
    reseal(database, Cipher(f"{new},{old}"))
    alone = settings.model_copy(update={"encryption_key": SecretStr(new)})
    assert await _looked_up(alone, subscription.id) == Found(subscription)


async def test_a_process_without_the_new_key_holds_back_what_it_cannot_read(
    settings: Settings, database: Database, old: str
) -> None:
    """And goes on with the rest; going on with what it knew before would be delivering to the wrong place."""
    [changed, other], new = _filled(database, old, 2), generate_key()
    subscriptions = SubscriptionMap(settings)
    try:
        await subscriptions.start()
        for one in (changed, other):
            assert await subscriptions.get(one.id) == Found(one)
        SubscriptionStore(database, Cipher(f"{new},{old}")).set_status(changed.id, "paused")
        paused = SubscriptionStore(database, Cipher(old)).set_status(other.id, "paused")
        assert paused is not None
        await eventually(lambda: subscriptions.peek(other.id) == Found(paused))
        assert await subscriptions.get(changed.id) == Unreachable()
    finally:
        await subscriptions.stop()


async def _looked_up(settings: Settings, subscription_id: str) -> object:
    subscriptions = SubscriptionMap(settings)
    try:
        await subscriptions.start()
        return await subscriptions.get(subscription_id)
    finally:
        await subscriptions.stop()


def _rows(database: Database) -> list[object]:
    with database.transaction() as connection:
        return list(connection.execute(text("select * from subscriptions order by id")).all())
