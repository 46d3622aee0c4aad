"""Changing, rotating and finding subscriptions, in a real Postgres."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from shared.database import Database
from shared.encryption import Cipher
from shared.errors import TooManyKeys
from shared.settings import Settings
from shared.signature import decode_signing_secret
from shared.subscriptions import Changes, ListFilter, NewSubscription, Subscription, SubscriptionStore

_NEW = NewSubscription("https://example.com/hook", secret=b"incoming-0", headers=(("X-Key", "credential"),))
_UNKNOWN = "0192c0de-0000-7000-8000-000000000000"


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value(), pool_size=8)
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))


def test_a_change_changes_what_it_names(store: SubscriptionStore) -> None:
    before = store.create(_NEW).subscription
    changes: Changes = {
        "target_url": "https://example.org/",
        "event_types": ("a.*",),
        "description": "d",
        "secret": b"incoming-1",
        "headers": (("X-A", "1"), ("X-B", "2")),
        "timeout_seconds": 2.5,
        "retry_delays": (1,),
        "signature_scheme": "shopify",
        "rate_limit": 0.5,
        "max_in_flight": 3,
    }
    after = store.update(before.id, lambda _current: changes)
    assert after is not None
    assert after == replace(before, **changes, version=after.version, updated_at=after.updated_at)
    assert store.get(before.id) == after
    assert after.version > before.version
    assert after.updated_at > before.updated_at


def test_a_change_that_changes_nothing_leaves_version_and_time(store: SubscriptionStore) -> None:
    before = store.create(_NEW).subscription
    assert store.update(before.id, lambda current: {"target_url": current.target_url}) == before
    assert store.update(before.id, lambda _current: {}) == before
    paused = store.set_status(before.id, "paused")
    assert store.set_status(before.id, "paused") == paused
    assert paused is not None
    assert store.changed_since(paused.version) == []


def test_changes_at_once_lose_no_field_and_versions_grow(store: SubscriptionStore) -> None:
    """Each adds to what it finds: a lost update would be a missing type or header."""
    before = store.create(replace(_NEW, headers=())).subscription

    def add(number: int) -> Subscription | None:
        def more(current: Subscription) -> Changes:
            if number % 2:
                return {"event_types": (*current.event_types, f"t{number}")}
            return {"headers": (*current.headers, (f"X-{number}", "v"))}

        return store.update(before.id, more)

    with ThreadPoolExecutor(8) as threads:
        answers = [one for one in threads.map(add, range(40)) if one]
    after = store.get(before.id)
    assert after is not None
    assert sorted(after.event_types) == sorted(f"t{number}" for number in range(1, 40, 2))
    assert sorted(name for name, _ in after.headers) == sorted(f"X-{number}" for number in range(0, 40, 2))
    assert len({one.version for one in answers}) == 40
    assert after.version == max(one.version for one in answers)


def test_what_a_change_raises_changes_nothing(store: SubscriptionStore) -> None:
    before = store.create(_NEW).subscription

    def refuse(_current: Subscription) -> Changes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.update(before.id, refuse)
    assert store.get(before.id) == before
    assert store.set_status(before.id, "paused") is not None  # the lock was let go


def test_the_unknown_the_malformed_and_the_deleted_cannot_be_changed(store: SubscriptionStore) -> None:
    deleted = store.create(_NEW).subscription.id
    store.delete(deleted)
    for one in (_UNKNOWN, "x", "a\0b", "\ud800", deleted):
        assert store.update(one, lambda _current: {"description": "d"}) is None
        assert store.set_status(one, "active") is None
        assert store.rotate(one, 60) is None


def test_a_rotation_is_kept_sealed_and_overlaps(store: SubscriptionStore, database: Database) -> None:
    created = store.create(_NEW)
    rotated = store.rotate(created.subscription.id, 60, b"incoming-1")
    assert rotated is not None
    after, now_ms = store.get(created.subscription.id), time.time() * 1000
    assert after == rotated.subscription
    keys = tuple(decode_signing_secret(secret) for secret in (rotated.signing_secret, created.signing_secret))
    assert after.signing_keys_at(int(now_ms)) == keys
    assert after.secrets_at(int(now_ms)) == (b"incoming-1", b"incoming-0")
    later_ms = int(now_ms) + 61_000
    assert (after.signing_keys_at(later_ms), after.secrets_at(later_ms)) == (keys[:1], (b"incoming-1",))
    with database.transaction() as connection:
        stored = str(connection.execute(text("select * from subscriptions")).mappings().all())
    for clear in (
        "incoming",
        *(secret.removeprefix("whsec_") for secret in (rotated.signing_secret, created.signing_secret)),
    ):
        assert clear not in stored
        assert clear not in repr(rotated)


def test_what_has_run_out_is_gone_from_the_table_at_the_next_change(
    store: SubscriptionStore, database: Database
) -> None:
    subscription = store.create(_NEW).subscription
    assert store.rotate(subscription.id, 1, b"incoming-1")
    time.sleep(1.1)
    store.set_status(subscription.id, "paused")
    after = store.get(subscription.id)
    assert after is not None
    assert (after.previous_secret, after.previous_signing_keys) == (None, ())
    with database.transaction() as connection:
        assert connection.execute(text("select sealed_previous from subscriptions")).scalar_one() is None


def test_rotations_at_once_are_all_kept_until_there_are_too_many(store: SubscriptionStore) -> None:
    created = store.create(_NEW)

    def rotate(_number: int) -> str | None:
        try:
            rotated = store.rotate(created.subscription.id, 60)
        except TooManyKeys:
            return None
        return rotated.signing_secret if rotated else None

    with ThreadPoolExecutor(8) as threads:
        shown = [secret for secret in threads.map(rotate, range(8)) if secret]
    after = store.get(created.subscription.id)
    assert after is not None
    good = set(after.signing_keys_at(int(time.time() * 1000)))
    assert len(shown) == 5
    assert good == {decode_signing_secret(secret) for secret in (created.signing_secret, *shown)}


def test_deleting_leaves_nothing_of_a_rotation(store: SubscriptionStore, database: Database) -> None:
    subscription = store.create(_NEW).subscription
    store.rotate(subscription.id, 60, b"incoming-1")
    store.delete(subscription.id)
    with database.transaction() as connection:
        row = connection.execute(text("select sealed_previous, sealed_secret, sealed_signing_keys from subscriptions"))
        assert row.one() == (None, None, "")


def test_a_list_shows_what_is_wanted(store: SubscriptionStore) -> None:
    def create(url: str, *event_types: str, tenant: str = "default") -> str:
        return store.create(NewSubscription(url, tenant, event_types)).subscription.id

    everything = create("https://a.example/x")
    orders = create("https://a.example/y", "order.*", tenant="acme")
    paid = create("https://b.example/100%_off", "order.paid", "x")
    other = create("https://b.example/", "invoice.*")
    store.set_status(orders, "paused")

    def listed(**wanted: str) -> list[str]:
        return [one.id for one in store.list(wanted=ListFilter(**wanted))]  # type: ignore[arg-type]

    assert listed() == [everything, orders, paid, other]
    assert listed(status="paused") == [orders]
    assert listed(status="disabled") == []
    assert listed(tenant="acme") == [orders]
    assert listed(tenant="nobody") == []
    assert listed(event_type="order.paid") == [everything, orders, paid]
    assert listed(event_type="order.paid.late") == [everything, orders]
    assert listed(event_type="order") == [everything]
    assert listed(event_type="order.*") == [everything, orders]
    assert listed(target_url="https://b.example/") == [paid, other]
    assert listed(target_url="https://b.example/100%_") == [paid]
    assert listed(target_url="https://b.example/1%") == []
    assert listed(target_url="https://a.example/", tenant="acme", event_type="order.x", status="paused") == [orders]
    assert [one.id for one in store.list(1, 1, ListFilter(event_type="order.paid"))] == [orders]
