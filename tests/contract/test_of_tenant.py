"""A tenant's complete set of subscriptions: loaded once, kept true by the feed, never incomplete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.database import Database
from shared.encryption import Cipher
from shared.errors import TenantFull
from shared.record_ids import new_webhook_id
from shared.settings import Settings
from shared.subscription import Change
from shared.subscriptions import (
    Interest,
    NewSubscription,
    Subscription,
    SubscriptionMap,
    SubscriptionStore,
    Unreachable,
)
from tests.contract.test_cache import either, started, through_proxy
from tests.eventually import eventually

__all__ = ["either"]  # a fixture


@pytest.fixture(scope="module")
def settings(fresh_settings: Callable[..., Settings]) -> Settings:
    """One database for all: every test makes tenants of its own."""
    return fresh_settings()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))


@pytest.fixture
def tenant() -> str:
    return new_webhook_id()


def create(store: SubscriptionStore, tenant: str, *event_types: str) -> Subscription:
    return store.create(NewSubscription("https://example.com/", tenant=tenant, event_types=event_types)).subscription


async def ids(subscriptions: SubscriptionMap, tenant: str) -> set[str]:
    known = await subscriptions.of_tenant(tenant)
    assert not isinstance(known, Unreachable)
    return {one.subscription_id for one in known}


async def seen(subscriptions: SubscriptionMap, tenant: str, expected: set[str]) -> None:
    """At once."""
    assert await ids(subscriptions, tenant) == expected


async def test_the_set_is_complete_whatever_the_status_and_of_this_tenant_only(
    either: Settings, store: SubscriptionStore, tenant: str
) -> None:
    one, paused, disabled, deleted = (create(store, tenant, "order.*") for _ in range(4))
    create(store, "another")
    store.set_status(paused.id, "paused")
    store.set_status(disabled.id, "disabled")
    store.delete(deleted.id)
    async with started(either) as subscriptions:
        found = await subscriptions.of_tenant(tenant)
        assert not isinstance(found, Unreachable)
        assert sorted(found) == sorted(Interest(x.id, ("order.*",)) for x in (one, paused, disabled))
        assert await subscriptions.of_tenant("nobody's") == ()


async def test_changes_are_in_the_set_in_every_process(either: Settings, store: SubscriptionStore, tenant: str) -> None:
    first = create(store, tenant)
    async with started(either) as subscriptions, started(either) as others:
        for reader in (subscriptions, others):
            assert await ids(reader, tenant) == {first.id}
        second = create(store, tenant)
        await seen(subscriptions, tenant, {first.id, second.id})
        await seen(others, tenant, {first.id, second.id})
        store.set_status(second.id, "paused")
        store.delete(first.id)
        await seen(subscriptions, tenant, {second.id})
        await seen(others, tenant, {second.id})


async def test_what_was_committed_before_the_question_is_in_the_answer(
    either: Settings, store: SubscriptionStore, tenant: str
) -> None:
    """Without any waiting: an event posted right after a subscription was made reaches it."""
    async with started(either) as subscriptions:
        expected: set[str] = set()
        for _ in range(10):
            expected.add((await asyncio.to_thread(create, store, tenant)).id)
            assert await ids(subscriptions, tenant) == expected
        for one in sorted(expected)[:5]:
            await asyncio.to_thread(store.delete, one)
            expected.discard(one)
            assert await ids(subscriptions, tenant) == expected


async def test_many_questions_at_once_share_a_look_at_postgres(
    settings: Settings, store: SubscriptionStore, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = create(store, tenant)
    looks = 0
    changed_since = SubscriptionStore.changed_since

    def counted(self: SubscriptionStore, version: int, limit: int) -> Sequence[Change]:
        nonlocal looks
        looks += 1
        return changed_since(self, version, limit)

    async with started(settings) as subscriptions:
        await ids(subscriptions, tenant)
        monkeypatch.setattr(SubscriptionStore, "changed_since", counted)
        assert await asyncio.gather(*(ids(subscriptions, tenant) for _ in range(200))) == [{one.id}] * 200
    assert 1 <= looks <= 3


async def test_a_glance_makes_no_round_trip_and_is_true_within_a_second(
    settings: Settings, store: SubscriptionStore, tenant: str
) -> None:
    one = create(store, tenant)

    def glance() -> set[str]:
        return {interest.subscription_id for interest in subscriptions.peek_tenant(tenant) or ()}

    async with through_proxy(settings, "database_url") as (slow, postgres), started(slow) as subscriptions:
        assert subscriptions.peek_tenant(tenant) is None
        await eventually(lambda: subscriptions.peek_tenant(tenant) is not None)
        postgres.stall()
        assert [glance() for _ in range(1000)] == [{one.id}] * 1000
        postgres.flow()
        await eventually(lambda: subscriptions.postgres_trouble == "", within_s=15)
        other = create(store, tenant)
        started_s = time.monotonic()
        await eventually(lambda: glance() == {one.id, other.id}, within_s=2)
        assert time.monotonic() - started_s < 1


async def test_a_postgres_that_stands_still_holds_a_known_set_for_seconds_only(
    settings: Settings, store: SubscriptionStore, tenant: str
) -> None:
    one = create(store, tenant)
    async with through_proxy(settings, "database_url") as (slow, postgres), started(slow) as subscriptions:
        assert await ids(subscriptions, tenant) == {one.id}
        postgres.stall()
        async with asyncio.timeout(12):
            assert await ids(subscriptions, tenant) == {one.id}
        async with asyncio.timeout(1):
            assert await ids(subscriptions, tenant) == {one.id}, "the trouble is known now"
        postgres.flow()


async def test_without_postgres_a_known_set_goes_on_and_another_is_unreachable_never_empty(
    either: Settings, store: SubscriptionStore, tenant: str
) -> None:
    one = create(store, tenant)
    async with through_proxy(either, "database_url") as (cuttable, proxy), started(cuttable) as subscriptions:
        assert await ids(subscriptions, tenant) == {one.id}
        await proxy.cut()
        await eventually(lambda: subscriptions.postgres_trouble)
        assert await ids(subscriptions, tenant) == {one.id}
        assert await subscriptions.of_tenant("another") == Unreachable()
        later = create(store, tenant)
        await proxy.open()
        await eventually(lambda: subscriptions.postgres_trouble == "")
        await seen(subscriptions, tenant, {one.id, later.id})


async def test_a_start_without_postgres_is_unreachable_until_it_is_there(
    settings: Settings, store: SubscriptionStore, tenant: str
) -> None:
    one = create(store, tenant)
    async with through_proxy(settings, "database_url") as (cuttable, proxy):
        await proxy.cut()
        async with started(cuttable) as subscriptions:
            assert await subscriptions.of_tenant(tenant) == Unreachable()
            await proxy.open()
            await eventually(lambda: subscriptions.postgres_trouble == "")
            assert await ids(subscriptions, tenant) == {one.id}


async def test_sets_read_while_others_write_miss_nothing(
    settings: Settings, store: SubscriptionStore, tenant: str
) -> None:
    async with started(settings) as one, started(settings) as other:
        with ThreadPoolExecutor(3) as writers:
            writing = [writers.submit(create, store, tenant) for _ in range(60)]
            while not all(one_write.done() for one_write in writing):
                await ids(one, tenant)
                await ids(other, tenant)
                await asyncio.sleep(0.01)
            created = {write.result().id for write in writing}
        await seen(one, tenant, created)
        await seen(other, tenant, created)


def test_a_tenant_has_so_many_subscriptions_and_no_more_even_when_two_ask_at_once(
    settings: Settings, database: Database, tenant: str
) -> None:
    store = SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()), most_per_tenant=5)

    def attempt(_: int) -> Subscription | None:
        try:
            return create(store, tenant)
        except TenantFull:
            return None

    with ThreadPoolExecutor(4) as threads:
        made = [one for one in threads.map(attempt, range(12)) if one]
    assert len(made) == 5
    store.delete(made[0].id)
    assert attempt(0) is not None
    assert attempt(0) is None
    assert create(store, new_webhook_id()), "another tenant has its own"
