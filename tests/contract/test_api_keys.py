"""API keys in Postgres, and the ring that holds them in memory, also while Postgres is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from ingest_api.key_ring import KeyRing
from shared.api_key_store import ApiKeyStore
from shared.api_keys import CreatedKey, Role, generate_key, key_hash
from shared.clock import SystemClock
from shared.database import Database
from shared.errors import StoreUnavailable
from shared.settings import Settings
from tests.eventually import eventually
from tests.tcp_proxy import TcpProxy, tcp_proxy


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = Database(settings.database_url.get_secret_value())
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> ApiKeyStore:
    return ApiKeyStore(database)


def made(store: ApiKeyStore, role: Role = "read", **more: str) -> CreatedKey:
    created = store.create(role, **more)
    assert created is not None
    return created


def working(store: ApiKeyStore) -> set[bytes]:
    found = store.newer_than(None)
    assert found is not None
    return set(found.by_hash)


def test_a_key_is_found_by_its_hash_with_its_role_and_tenant(store: ApiKeyStore) -> None:
    created = made(store, "publish", tenant="acme", name="shop")
    found = store.newer_than(None)
    assert found is not None
    assert found.by_hash[key_hash(created.key.encode())] == created.api_key
    assert (created.api_key.role, created.api_key.tenant, created.api_key.name) == ("publish", "acme", "shop")
    assert created.key.startswith(created.api_key.prefix)
    assert store.list() == [created.api_key]


def test_the_table_does_not_hold_the_key(store: ApiKeyStore, database: Database) -> None:
    created = made(store)
    with database.transaction() as connection:
        [row] = connection.execute(text("select t::text from api_keys t")).scalars()
    secret_part = created.key[8:]
    assert key_hash(created.key.encode()).hex() in row
    assert secret_part not in row
    assert secret_part.encode().hex() not in row


def test_a_revoked_key_is_gone_and_cannot_be_revoked_again(store: ApiKeyStore) -> None:
    created, other = made(store), made(store)
    assert store.revoke(created.api_key.id)
    assert not store.revoke(created.api_key.id)
    assert store.list() == [other.api_key]
    assert working(store) == {key_hash(other.key.encode())}


@pytest.mark.parametrize("key_id", ["", "x", "\0", "\ud800", "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2", "1" * 10_000])
def test_ids_that_nobody_has_revoke_nothing(store: ApiKeyStore, key_id: str) -> None:
    created = made(store)
    assert not store.revoke(key_id)
    assert working(store) == {key_hash(created.key.encode())}


def test_with_a_tenant_only_its_own_keys_are_listed_and_revoked(store: ApiKeyStore) -> None:
    of_acme, of_other, of_all = made(store, tenant="acme"), made(store, tenant="other"), made(store)
    assert store.list(tenant="acme") == [of_acme.api_key]
    for foreign in (of_other, of_all):
        assert not store.revoke(foreign.api_key.id, tenant="acme")
    assert store.revoke(of_acme.api_key.id, tenant="acme")
    assert store.list() == [of_other.api_key, of_all.api_key]


def test_lists_are_bounded_and_go_on(store: ApiKeyStore) -> None:
    created = [made(store).api_key for _ in range(3)]
    assert store.list(0, 2) == created[:2]
    assert store.list(2, 2) == created[2:]
    assert store.list(3) == []


def test_there_are_only_so_many_and_a_revocation_makes_room(database: Database) -> None:
    small = ApiKeyStore(database, most_keys=2)
    first, _second = made(small), made(small)
    assert small.create("read") is None
    small.revoke(first.api_key.id)
    made(small)


def test_parallel_creations_never_pass_the_bound(database: Database) -> None:
    small = ApiKeyStore(database, most_keys=5)
    with ThreadPoolExecutor(4) as threads:
        created = list(threads.map(lambda _: small.create("read"), range(12)))
    assert sum(one is not None for one in created) == len(small.list()) == 5


def test_rows_of_keys_revoked_long_ago_are_deleted_and_lately_revoked_ones_kept(
    store: ApiKeyStore, database: Database
) -> None:
    long_ago, lately = made(store), made(store)
    store.revoke(long_ago.api_key.id)
    store.revoke(lately.api_key.id)
    with database.transaction() as connection:
        old = text("update api_keys set revoked_at = now() - interval '31 days' where id = :id")
        connection.execute(old, {"id": long_ago.api_key.id})
    newest = made(store)
    with database.transaction() as connection:
        ids = {str(row_id) for row_id in connection.execute(text("select id from api_keys")).scalars()}
    assert ids == {lately.api_key.id, newest.api_key.id}


def test_nothing_new_is_none_and_every_change_is_new(store: ApiKeyStore) -> None:
    empty = store.newer_than(None)
    assert empty is not None
    assert not empty.by_hash
    created = made(store)
    after = store.newer_than(empty.version)
    assert after is not None
    assert store.newer_than(after.version) is None
    store.revoke(created.api_key.id)
    revoked = store.newer_than(after.version)
    assert revoked is not None
    assert not revoked.by_hash


@asynccontextmanager
async def ring_of(settings: Settings, proxy: TcpProxy | None = None) -> AsyncIterator[KeyRing]:
    """A started ring, if wanted with its Postgres behind a proxy."""
    url = urlsplit(settings.database_url.get_secret_value())
    if proxy is not None:
        user = url.netloc.rpartition("@")[0]
        url = url._replace(netloc=f"{user}@127.0.0.1:{proxy.port}")
    ring = KeyRing(url.geturl(), clock=SystemClock())
    await ring.start()
    try:
        yield ring
    finally:
        await ring.stop()


@asynccontextmanager
async def behind_proxy(settings: Settings) -> AsyncIterator[tuple[KeyRing, TcpProxy]]:
    url = urlsplit(settings.database_url.get_secret_value())
    async with tcp_proxy(str(url.hostname), int(url.port or 5432)) as proxy, ring_of(settings, proxy) as ring:
        yield ring, proxy


async def test_a_new_key_works_at_once_in_another_process(settings: Settings, store: ApiKeyStore) -> None:
    async with ring_of(settings) as ring:
        created = await asyncio.to_thread(made, store, "manage", tenant="acme")
        assert await ring.get(created.key.encode()) == created.api_key
        assert ring.peek(created.key.encode()) == created.api_key


async def test_a_revoked_key_stops_within_a_second_in_every_process(settings: Settings, store: ApiKeyStore) -> None:
    created, other = made(store), made(store)
    key = created.key.encode()
    async with ring_of(settings) as one, ring_of(settings) as two:
        assert one.peek(key) == two.peek(key) == created.api_key
        await asyncio.to_thread(store.revoke, created.api_key.id)
        await asyncio.sleep(1.0)
        assert one.peek(key) is None
        assert two.peek(key) is None
        assert await one.get(key) is None
        assert one.peek(other.key.encode()) == other.api_key


async def test_any_number_of_unknown_keys_costs_postgres_a_few_questions(settings: Settings) -> None:
    async with behind_proxy(settings) as (ring, proxy):
        a_reading = await bytes_of_a_reading(ring, proxy)
        before, began_s = proxy.sent_bytes, time.monotonic()
        for _ in range(5):
            found = await asyncio.gather(*(ring.get(generate_key().encode()) for _ in range(1000)))
            assert not any(found)
        # Ten a second; those that began before and after are seen in part.
        assert (proxy.sent_bytes - before) / a_reading <= (time.monotonic() - began_s) * 10 + 2


async def test_what_does_not_look_like_a_key_adds_no_question(settings: Settings) -> None:
    async with behind_proxy(settings) as (ring, proxy):
        a_reading = await bytes_of_a_reading(ring, proxy)
        before, began_s = proxy.sent_bytes, time.monotonic()
        while time.monotonic() - began_s < 0.5:
            assert await ring.get(b"guess") is None
            await asyncio.sleep(0)
        # The regular ones: each half second, and one on either side.
        assert (proxy.sent_bytes - before) / a_reading <= (time.monotonic() - began_s) * 2 + 2


async def bytes_of_a_reading(ring: KeyRing, proxy: TcpProxy) -> int:
    """What one question for the newest version sends to Postgres."""
    await ring.refresh()
    before = proxy.sent_bytes
    await ring.refresh()
    assert proxy.sent_bytes > before
    return proxy.sent_bytes - before


async def test_known_keys_go_on_while_postgres_is_away_and_unknown_ones_cannot_be_told(
    settings: Settings, store: ApiKeyStore
) -> None:
    known = made(store)
    async with behind_proxy(settings) as (ring, proxy):
        await proxy.cut()
        later = await asyncio.to_thread(made, store)
        await eventually(lambda: _unreachable(ring, later.key.encode()), within_s=5)
        assert await _unreachable(ring, b"guess")
        assert await ring.get(known.key.encode()) == known.api_key
        await proxy.open()
        await eventually(lambda: _is(ring, later), within_s=5)


async def test_a_postgres_that_stands_still_holds_unknown_keys_for_a_bounded_time(
    settings: Settings, store: ApiKeyStore
) -> None:
    known = made(store)
    async with behind_proxy(settings) as (ring, proxy):
        proxy.stall()
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await ring.get(generate_key().encode())
        assert time.monotonic() - began_s < 3
        assert await ring.get(known.key.encode()) == known.api_key
        proxy.flow()
        await eventually(lambda: _none(ring), within_s=10)


async def test_a_ring_that_starts_without_postgres_waits_for_it(settings: Settings, store: ApiKeyStore) -> None:
    created = made(store)
    url = urlsplit(settings.database_url.get_secret_value())
    async with tcp_proxy(str(url.hostname), int(url.port or 5432)) as proxy:
        await proxy.cut()
        async with ring_of(settings, proxy) as ring:
            with pytest.raises(StoreUnavailable):
                await ring.get(created.key.encode())
            await proxy.open()
            await eventually(lambda: _is(ring, created), within_s=5)


async def _unreachable(ring: KeyRing, key: bytes) -> bool:
    try:
        await ring.get(key)
    except StoreUnavailable:
        return True
    return False


async def _is(ring: KeyRing, created: CreatedKey) -> bool:
    return ring.peek(created.key.encode()) == created.api_key


async def _none(ring: KeyRing) -> bool:
    try:
        return await ring.get(generate_key().encode()) is None
    except StoreUnavailable:
        return False
