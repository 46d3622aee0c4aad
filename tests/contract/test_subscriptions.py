"""The truth about subscriptions, in a real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from shared.database import Database
from shared.encryption import Cipher
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.signature import decode_signing_secret
from shared.subscriptions import NewSubscription, SubscriptionStore

_EVERYTHING = NewSubscription(
    target_url="https://example.com/hook",
    tenant="acme",
    event_types=("order.*", "invoice.paid"),
    description="Ünïcode",
    secret=b"incoming \x00\xff secret",
    headers=(("Authorization", "Bearer outgoing-credential"), ("X-Two", "2")),
    timeout_seconds=7.5,
    retry_delays=(1, 2, 30),
)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))


def test_what_was_created_is_read_back(store: SubscriptionStore) -> None:
    created = store.create(_EVERYTHING)
    subscription = created.subscription
    assert store.get(subscription.id) == subscription
    assert store.get(subscription.id.upper()) == subscription
    chosen = {name: getattr(subscription, name) for name in NewSubscription.__slots__}
    assert NewSubscription(**chosen) == _EVERYTHING
    assert subscription.status == "active"
    assert subscription.signing_keys == (decode_signing_secret(created.signing_secret),)


def test_defaults_are_every_type_and_no_secret(store: SubscriptionStore) -> None:
    subscription = store.create(NewSubscription("https://example.com/")).subscription
    assert (subscription.tenant, subscription.event_types, subscription.secret) == ("default", (), None)
    assert (subscription.headers, subscription.retry_delays, subscription.timeout_seconds) == ((), None, None)


def test_secrets_are_neither_shown_nor_stored_in_clear(store: SubscriptionStore, database: Database) -> None:
    created = store.create(_EVERYTHING)
    with database.transaction() as connection:
        stored = str(connection.execute(text("select * from subscriptions")).mappings().all())
    everything_shown = f"{created!r} {_EVERYTHING!r} {store.changed_since(0)!r}"
    for clear in ("incoming", "outgoing-credential", created.signing_secret.removeprefix("whsec_")):
        assert clear not in everything_shown
        assert clear not in stored


def test_the_oldest_is_listed_first_in_pages(store: SubscriptionStore) -> None:
    ids = [store.create(NewSubscription(f"https://example.com/{n}")).subscription.id for n in range(5)]
    assert [one.id for one in store.list()] == ids
    assert [one.id for one in store.list(skip=1, limit=2)] == ids[1:3]
    assert store.list(skip=5) == []


@pytest.mark.parametrize(
    "malformed", ["", "1", "a\0b", "\ud800", "x" * 5000, "{0192c0de-0000-7000-8000-000000000000}", "٠" * 36]
)
def test_a_malformed_id_is_absent(store: SubscriptionStore, malformed: str) -> None:
    assert store.get(malformed) is None
    assert store.delete(malformed) is False
    assert store.set_status(malformed, "paused") is None


def test_deleting_leaves_a_tombstone_without_secrets(store: SubscriptionStore, database: Database) -> None:
    subscription = store.create(_EVERYTHING).subscription
    assert store.delete(subscription.id) is True
    assert store.delete(subscription.id) is False
    assert store.get(subscription.id) is None
    assert store.list() == []
    [change] = store.changed_since(subscription.version)
    assert (change.id, change.sealed) == (subscription.id, None)
    with database.transaction() as connection:
        row = connection.execute(text("select sealed_secret, sealed_headers, sealed_signing_keys from subscriptions"))
        assert row.one() == (None, None, "")


def test_a_change_has_a_higher_version_and_comes_once(store: SubscriptionStore) -> None:
    first = store.create(_EVERYTHING).subscription
    second = store.create(_EVERYTHING).subscription
    paused = store.set_status(first.id, "paused")
    assert paused is not None
    assert first.version < second.version < paused.version
    assert replace(paused, status="active", version=first.version, updated_at=first.updated_at) == first
    assert [change.id for change in store.changed_since(0)] == [second.id, first.id]
    assert [change.id for change in store.changed_since(0, limit=1)] == [second.id]
    assert store.changed_since(paused.version) == []


def test_a_reader_of_the_feed_misses_no_change(store: SubscriptionStore) -> None:
    """Versions are in the order of commits: whoever goes on from the highest one seen has skipped nothing."""
    done, seen = threading.Event(), []

    def follow() -> None:
        last, finished = 0, False
        while not finished:
            finished = done.is_set()
            for change in store.changed_since(last, limit=3):
                last = change.version
                seen.append(change.id)

    with ThreadPoolExecutor(4) as writers, ThreadPoolExecutor(1) as reader:
        following = reader.submit(follow)
        created = list(writers.map(lambda _: store.create(_EVERYTHING).subscription.id, range(60)))
        done.set()
        following.result()
    assert sorted(seen) == sorted(created)


def test_the_feed_starts_with_what_changed_lately(store: SubscriptionStore) -> None:
    assert store.feed_start(60).version == 0
    subscription = store.create(_EVERYTHING).subscription
    start = store.feed_start(60)
    assert (start.version, [change.id for change in start.changes]) == (subscription.version, [subscription.id])
    assert store.feed_start(-60).changes == ()


def test_a_postgres_out_of_reach_is_store_unavailable(settings: Settings) -> None:
    nowhere = Database("postgresql://hooklog:s3cret-password@127.0.0.1:9/none")
    store = SubscriptionStore(nowhere, Cipher(settings.encryption_key.get_secret_value()))
    for ask in (store.list, lambda: store.create(_EVERYTHING), lambda: store.changed_since(0)):
        with pytest.raises(StoreUnavailable) as caught:
            ask()
        assert "s3cret-password" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_connection_that_died_is_replaced(store: SubscriptionStore, database: Database) -> None:
    subscription = store.create(_EVERYTHING).subscription
    with database.transaction() as connection:
        others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        connection.execute(text(f"{others} and pid <> pg_backend_pid()"))
    with pytest.raises(StoreUnavailable), database.transaction() as connection:
        connection.execute(text("select pg_terminate_backend(pg_backend_pid())"))
    assert store.get(subscription.id) == subscription
