"""Where a stack comes from, and fresh names on it for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from cryptography.fernet import Fernet

from shared.settings import Settings
from tests.stacks import Stack, find_stack

FreshSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Kafka, Postgres and (perhaps) Redis, one of each for the whole run. The first test that asks starts them."""
    with find_stack() as found:
        yield found


@pytest.fixture(scope="session")
def fresh_settings(stack: Stack) -> Iterator[FreshSettings]:
    """Makes settings with a topic prefix and a migrated database of their own; keyword arguments win."""
    with _template_database(stack) as template:
        databases: list[str] = []

        def make(**overrides: Any) -> Settings:
            name = fresh_name()
            _execute(stack, f'create database "{name}" template "{template}"')
            databases.append(name)
            return settings_for_tests(stack, name, **overrides)

        yield make
        for name in databases:
            _execute(stack, f'drop database if exists "{name}" with (force)')


@pytest.fixture
def settings(fresh_settings: FreshSettings) -> Settings:
    """Fresh names on the shared stack, short waits."""
    return fresh_settings()


@pytest.fixture
async def topics_ready(settings: Settings) -> AsyncIterator[Settings]:
    """The same settings, their topics created; deleted afterwards, or a long run ends with thousands of partitions."""
    from shared.kafka import ensure_topics

    await ensure_topics(settings)
    yield settings
    await delete_topics(settings)


async def delete_topics(settings: Settings) -> None:
    """All topics under the prefix of these settings."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        names = await admin.list_topics()
        await admin.delete_topics([name for name in names if name.startswith(settings.topic_prefix)])
    finally:
        await admin.close()


def settings_for_tests(stack: Stack, database: str, **overrides: Any) -> Settings:
    """Settings that neither `.env` nor the environment of a developer changes."""
    values = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    values |= {
        "kafka_bootstrap_servers": stack.bootstrap_servers,
        "database_url": database_url_of(stack, database),
        "redis_url": stack.redis_url,
        "topic_prefix": f"{database}.",
        "partitions": 4,
        "replication_factor": stack.replicas,
        "retry_delays": "1s,2s",
        "encryption_key": Fernet.generate_key().decode(),
        "allowed_target_networks": "127.0.0.0/8,::1/128",
        "webhook_delivery_timeout_seconds": 3.0,
        "api_port": 0,
    }
    return Settings(_env_file=None, **(values | overrides))


def fresh_name() -> str:
    """For a database and the topics beside it."""
    return f"t{secrets.token_hex(5)}"


def database_url_of(stack: Stack, database: str) -> str:
    """A database of this Postgres, whether it exists or not."""
    return urlsplit(stack.database_url)._replace(path=f"/{database}").geturl()


@contextmanager
def _template_database(stack: Stack) -> Iterator[str]:
    """Migrated once, then copied: 50 ms instead of a migration for each test."""
    from deploy.migrate import migrate

    name = fresh_name()
    migrate(database_url_of(stack, name))
    yield name
    _execute(stack, f'drop database if exists "{name}" with (force)')


def _execute(stack: Stack, statement: str) -> None:
    connection = psycopg2.connect(stack.database_url)
    try:
        connection.autocommit = True  # databases are made outside of transactions
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()
