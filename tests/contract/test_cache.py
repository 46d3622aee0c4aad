"""Look-ups of subscriptions: memory, Redis and Postgres together, and each of them missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
import redis.asyncio as redis

from shared.clock import SystemClock
from shared.database import Database
from shared.encryption import Cipher, generate_key
from shared.errors import ConfigurationError
from shared.record_ids import new_webhook_id
from shared.settings import Settings
from shared.subscription import SealedSubscription
from shared.subscription_cache import Cached, SubscriptionCache
from shared.subscriptions import (
    Absent,
    Found,
    NewSubscription,
    Subscription,
    SubscriptionMap,
    SubscriptionStore,
    Unreachable,
)
from tests.eventually import eventually
from tests.tcp_proxy import TcpProxy, tcp_proxy

_NEW = NewSubscription("https://example.com/hook", secret=b"incoming-secret", headers=(("X-Key", "outgoing-secret"),))
_UNKNOWN = "0192c0de-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def settings(fresh_settings: Callable[..., Settings]) -> Settings:
    """One database for all: every test makes its own subscriptions."""
    return fresh_settings()


@pytest.fixture
def store(settings: Settings) -> Iterator[SubscriptionStore]:
    database = Database(settings.database_url.get_secret_value())
    yield SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))
    database.close()


@pytest.fixture(params=["redis", "no redis"])
def either(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """With and without a cache."""
    return settings if request.param == "redis" else settings.model_copy(update={"redis_url": _secret("")})


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)


@asynccontextmanager
async def started(settings: Settings, **options: Any) -> AsyncIterator[SubscriptionMap]:
    subscriptions = SubscriptionMap(settings, **options)
    try:
        await subscriptions.start()
        yield subscriptions
    finally:
        await subscriptions.stop()


@asynccontextmanager
async def through_proxy(settings: Settings, name: str) -> AsyncIterator[tuple[Settings, TcpProxy]]:
    """The same settings, with ``database_url`` or ``redis_url`` through a proxy."""
    url = urlsplit(getattr(settings, name).get_secret_value())
    async with tcp_proxy(str(url.hostname), int(url.port or 0)) as proxy:
        user = url.netloc.rpartition("@")[0]
        there = f"{user}@127.0.0.1:{proxy.port}" if user else f"127.0.0.1:{proxy.port}"
        yield settings.model_copy(update={name: _secret(url._replace(netloc=there).geturl())}), proxy


async def test_a_subscription_is_found_and_then_known(either: Settings, store: SubscriptionStore) -> None:
    subscription = store.create(_NEW).subscription
    async with started(either) as subscriptions:
        assert subscriptions.peek(subscription.id) is None
        assert await subscriptions.get(subscription.id) == Found(subscription)
        assert subscriptions.peek(subscription.id) == Found(subscription)
        assert await subscriptions.get(subscription.id.upper()) == Found(subscription)
        assert (subscriptions.postgres_trouble, subscriptions.redis_trouble) == ("", "")


async def test_more_look_ups_at_once_than_connections_are_no_trouble(settings: Settings) -> None:
    clock = SystemClock()
    cache = SubscriptionCache(settings.redis_url.get_secret_value(), prefix="", ttl_s=60, clock=clock)
    try:
        assert set(await asyncio.gather(*(cache.get(new_webhook_id()) for _ in range(300)))) == {None}
        assert cache.trouble == ""
    finally:
        await cache.close()


@pytest.mark.parametrize("malformed", ["", "1", "a\0b", "\ud800", "x" * 5000])
async def test_a_malformed_id_is_absent_without_asking(settings: Settings, malformed: str) -> None:
    nowhere = settings.model_copy(update={"database_url": _secret("postgresql://h@127.0.0.1:9/none")})
    async with started(nowhere) as subscriptions:
        assert await subscriptions.get(malformed) == Absent()


async def test_changes_are_seen_within_a_second(either: Settings, store: SubscriptionStore) -> None:
    async with started(either) as subscriptions, started(either) as others:
        subscription = store.create(_NEW).subscription
        for reader in (subscriptions, others):
            assert await reader.get(subscription.id) == Found(subscription)

        async def seen_by_both(expected: Found | Absent) -> None:
            await _seen(lambda: subscriptions.peek(subscription.id) == expected)
            await _seen(lambda: others.peek(subscription.id) == expected)

        for change in _CHANGES:
            after = change(store, subscription.id)
            assert after is not None
            await seen_by_both(Found(after))
        store.delete(subscription.id)
        await seen_by_both(Absent())
        assert await others.get(_UNKNOWN) == Absent()


def _rotated(store: SubscriptionStore, subscription_id: str, overlap_s: int) -> Subscription | None:
    rotated = store.rotate(subscription_id, overlap_s, b"incoming %d" % overlap_s)
    return rotated.subscription if rotated else None


_CHANGES: tuple[Callable[[SubscriptionStore, str], Subscription | None], ...] = (
    lambda store, one: store.set_status(one, "paused"),
    lambda store, one: store.set_status(one, "active"),
    lambda store, one: store.update(one, lambda _current: {"event_types": ("a.*",), "secret": b"another"}),
    lambda store, one: _rotated(store, one, overlap_s=60),
    lambda store, one: _rotated(store, one, overlap_s=0),
)


async def _seen(condition: Callable[[], bool]) -> None:
    started_s = time.monotonic()
    await eventually(condition, within_s=2)
    assert time.monotonic() - started_s < 1


async def test_a_subscription_created_after_it_was_asked_for_is_found(
    either: Settings, store: SubscriptionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent answer is remembered, and the feed ends it."""
    new_id = new_webhook_id()
    monkeypatch.setattr("uuid_utils.uuid7", lambda: new_id)
    async with started(either) as subscriptions:
        assert await subscriptions.get(new_id) == Absent()
        assert subscriptions.peek(new_id) == Absent()
        store.create(_NEW)
        await _seen(lambda: subscriptions.peek(new_id) is None)
        assert isinstance(await subscriptions.get(new_id), Found)


async def test_a_warm_look_up_makes_no_round_trip(settings: Settings, store: SubscriptionStore) -> None:
    subscription = store.create(_NEW).subscription
    async with (
        through_proxy(settings, "database_url") as (slow, postgres),
        through_proxy(slow, "redis_url") as (both, cache),
        started(both) as subscriptions,
    ):
        await subscriptions.get(subscription.id)
        postgres.stall()
        cache.stall()
        before = cache.sent_bytes
        for _ in range(1000):
            assert await subscriptions.get(subscription.id) == Found(subscription)
        assert cache.sent_bytes == before
        postgres.flow()
        cache.flow()


async def test_look_ups_of_one_id_at_once_ask_once(
    settings: Settings, store: SubscriptionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = store.create(_NEW).subscription
    reads: list[str] = []
    read = SubscriptionStore.read

    def counted(self: SubscriptionStore, subscription_id: str) -> tuple[SealedSubscription | None, int]:
        reads.append(subscription_id)
        return read(self, subscription_id)

    monkeypatch.setattr(SubscriptionStore, "read", counted)
    async with started(settings) as subscriptions:
        found = await asyncio.gather(*(subscriptions.get(subscription.id) for _ in range(50)))
    assert found == [Found(subscription)] * 50
    assert reads == [subscription.id]


async def test_memory_is_bounded_and_forgets_the_least_used(settings: Settings, store: SubscriptionStore) -> None:
    ids = [store.create(_NEW).subscription.id for _ in range(4)]
    async with started(settings, max_entries=3) as subscriptions:
        for one in ids[:3]:
            await subscriptions.get(one)
        assert subscriptions.peek(ids[0]) is not None
        await subscriptions.get(ids[3])
        assert [subscriptions.peek(one) is not None for one in ids] == [True, False, True, True]


async def test_without_postgres_what_is_in_memory_goes_on_and_the_rest_is_unreachable(
    either: Settings, store: SubscriptionStore
) -> None:
    known, unknown = store.create(_NEW).subscription, store.create(_NEW).subscription
    async with through_proxy(either, "database_url") as (cuttable, proxy), started(cuttable) as subscriptions:
        await subscriptions.get(known.id)
        await proxy.cut()
        await eventually(lambda: subscriptions.postgres_trouble)
        assert await subscriptions.get(known.id) == Found(known)
        assert await subscriptions.get(unknown.id) == Unreachable()
        assert await subscriptions.get(_UNKNOWN) == Unreachable()
        paused = store.set_status(known.id, "paused")
        assert paused is not None
        await proxy.open()
        await eventually(lambda: subscriptions.peek(known.id) == Found(paused))
        assert await subscriptions.get(unknown.id) == Found(unknown)
        assert subscriptions.postgres_trouble == ""


async def test_a_postgres_that_stands_still_is_unreachable_within_seconds(
    settings: Settings, store: SubscriptionStore
) -> None:
    known, unknown = store.create(_NEW).subscription, store.create(_NEW).subscription
    async with through_proxy(settings, "database_url") as (stallable, proxy), started(stallable) as subscriptions:
        await subscriptions.get(known.id)
        proxy.stall()
        async with asyncio.timeout(8):
            assert await subscriptions.get(unknown.id) == Unreachable()
        assert await subscriptions.get(known.id) == Found(known)
        proxy.flow()
        await eventually(lambda: subscriptions.postgres_trouble == "", within_s=15)
        assert await subscriptions.get(unknown.id) == Found(unknown)


async def test_a_start_without_postgres_waits_for_it(settings: Settings, store: SubscriptionStore) -> None:
    subscription = store.create(_NEW).subscription
    async with through_proxy(settings, "database_url") as (cuttable, proxy):
        await proxy.cut()
        async with started(cuttable) as subscriptions:
            assert subscriptions.postgres_trouble
            assert await subscriptions.get(subscription.id) == Unreachable()
            await proxy.open()
            await eventually(lambda: subscriptions.postgres_trouble == "")
            assert await subscriptions.get(subscription.id) == Found(subscription)


async def test_a_wrong_key_is_noticed_at_start(settings: Settings, store: SubscriptionStore) -> None:
    subscription = store.create(_NEW).subscription
    async with started(settings):
        pass
    wrong = settings.model_copy(update={"encryption_key": _secret(generate_key())})
    subscriptions = SubscriptionMap(wrong)
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEY"):
        await subscriptions.start()
    assert await subscriptions.get(subscription.id) == Unreachable()
    await subscriptions.stop()


# -- Redis


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Any]:
    url = settings.redis_url.get_secret_value()
    if not url:
        pytest.skip("this stack has no Redis")
    async with redis.from_url(url) as connected:
        yield connected


def _key(settings: Settings, subscription_id: str) -> str:
    return f"{settings.topic_prefix}subscription:3:{subscription_id}"


async def test_redis_holds_no_secret_in_clear_and_forgets(
    settings: Settings, store: SubscriptionStore, client: Any
) -> None:
    subscription = store.create(_NEW).subscription
    store.rotate(subscription.id, 60, b"incoming-secret-2")
    async with started(settings) as subscriptions:
        await subscriptions.get(subscription.id)
    value = await client.get(_key(settings, subscription.id))
    assert b"incoming-secret" not in value
    assert b"outgoing-secret" not in value
    assert 0 < await client.ttl(_key(settings, subscription.id)) <= settings.cache_ttl_seconds


async def test_redis_answers_what_postgres_would(settings: Settings, store: SubscriptionStore, client: Any) -> None:
    """A second process finds in Redis what the first one put there, equal to the last field."""
    everything = NewSubscription(
        "https://x.org",
        event_types=("a", "b.*"),
        secret=b"incoming-secret",
        retry_delays=(1, 2),
        timeout_seconds=1.5,
        signature_scheme="standard",
        rate_limit=2.5,
        max_in_flight=3,
        signing_versions=("v1", "v1a"),
    )
    subscription = _rotated(store, store.create(everything).subscription.id, overlap_s=60)
    assert subscription is not None
    async with started(settings) as subscriptions:
        await subscriptions.get(subscription.id)
    async with through_proxy(settings, "database_url") as (cuttable, proxy), started(cuttable) as subscriptions:
        await proxy.cut()
        assert await subscriptions.get(subscription.id) == Found(subscription)


async def test_a_stale_value_in_redis_is_never_used(settings: Settings, store: SubscriptionStore, client: Any) -> None:
    """Neither by a process that saw the change, nor by one that starts after it."""
    subscription = store.create(_NEW).subscription
    key = _key(settings, subscription.id)
    async with started(settings) as subscriptions:
        await subscriptions.get(subscription.id)
        stale = await client.get(key)
        paused = store.set_status(subscription.id, "paused")
        assert paused is not None
        await _seen(lambda: subscriptions.peek(subscription.id) == Found(paused))
    async with started(settings) as subscriptions:
        await client.set(key, stale)
        assert await subscriptions.get(subscription.id) == Found(paused)


async def test_a_value_that_was_read_before_the_feed_began_is_not_used(
    settings: Settings, store: SubscriptionStore, client: Any
) -> None:
    """A writer may have slept for an hour between its read and its write: its value's TTL tells nothing."""
    subscription = store.create(_NEW).subscription
    key = _key(settings, subscription.id)
    async with started(settings) as subscriptions:
        await subscriptions.get(subscription.id)
    body = orjson.loads(await client.get(key))
    old = {**body, "read_ms": body["read_ms"] - 3_600_000, "target_url": "https://stale.example.com/"}
    await client.set(key, orjson.dumps(old))
    async with started(settings) as subscriptions:
        assert await subscriptions.get(subscription.id) == Found(subscription)


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", b"[]", b"{}", b'{"read_ms": 1}', b"null", b'"x"'])
async def test_garbage_in_redis_is_a_miss(
    settings: Settings, store: SubscriptionStore, client: Any, garbage: bytes
) -> None:
    subscription = store.create(_NEW).subscription
    await client.set(_key(settings, subscription.id), garbage)
    async with started(settings) as subscriptions:
        assert await subscriptions.get(subscription.id) == Found(subscription)


async def test_a_redis_that_is_gone_costs_little_and_comes_back(
    settings: Settings, store: SubscriptionStore, client: Any
) -> None:
    ids = [store.create(_NEW).subscription.id for _ in range(20)]
    async with through_proxy(settings, "redis_url") as (stallable, proxy), started(stallable) as subscriptions:
        assert subscriptions.redis_trouble == ""
        proxy.stall()
        started_s = time.monotonic()
        for one in ids[:19]:
            assert isinstance(await subscriptions.get(one), Found)
        # One or two time-outs of 0.25 s, and then Redis is left alone.
        assert time.monotonic() - started_s < 2
        assert subscriptions.redis_trouble
        proxy.flow()
        await eventually(lambda: subscriptions.redis_trouble == "", within_s=12)
        await subscriptions.get(ids[19])
        assert await client.exists(_key(settings, ids[19]))


async def test_a_redis_url_that_is_none_is_one_line(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: "):
        SubscriptionMap(settings.model_copy(update={"redis_url": _secret("nonsense")}))


async def test_the_cache_alone_gives_back_what_it_was_given(settings: Settings, client: Any) -> None:
    url = settings.redis_url.get_secret_value()
    cache = SubscriptionCache(url, prefix=settings.topic_prefix, ttl_s=60, clock=SystemClock())
    at = SystemClock().now_ms()
    from shared.clock import to_datetime

    sealed = SealedSubscription(
        id=_UNKNOWN,
        tenant="t",
        target_url="u",
        status="disabled",
        event_types=("a",),
        description=None,
        sealed_secret=None,
        sealed_signing_keys="k",
        sealed_headers="h",
        timeout_seconds=None,
        retry_delays=None,
        created_at=to_datetime(at),
        updated_at=to_datetime(at),
        version=7,
        signature_scheme="stripe",
        rate_limit=2.5,
        max_in_flight=3,
        sealed_previous="p",
        signing_versions=("v1", "v1a"),
        sealed_private_keys="k",
    )
    assert await cache.get(_UNKNOWN) is None
    await cache.put(Cached(sealed, at))
    assert await cache.get(_UNKNOWN) == Cached(sealed, at)
    await cache.close()
