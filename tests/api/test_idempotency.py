"""One event for one key: at once, later, from another process, with Redis and without."""

from __future__ import annotations

import asyncio
import base64
import hmac
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg2
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from ingest_api.idempotency import Claim, Fresh, Unasked, name_of
from ingest_api.key_cache import KeyCache
from ingest_api.key_rows import KeyRows
from shared.clock import SystemClock
from shared.database import Database
from shared.settings import Settings
from tests.api.conftest import Api, all_records, running_api, until
from tests.api.test_ingest import problem, records_of
from tests.tcp_proxy import TcpProxy, tcp_proxy

NOWHERE = "redis://127.0.0.1:9/0"


@pytest.fixture(scope="module", params=["with Redis", "without Redis", "Redis out of reach"])
async def each(request: pytest.FixtureRequest, api: Api, api_settings: Settings) -> AsyncIterator[Api]:
    """The same API in front of each kind of Redis."""
    if request.param == "with Redis":
        if not api_settings.redis_url.get_secret_value():
            pytest.skip("this stack has no Redis")
        yield api
        return
    url = "" if request.param == "without Redis" else NOWHERE
    async with running_api(api_settings.model_copy(update={"redis_url": SecretStr(url)})) as running:
        await until(lambda: running.parts.watch.report()["checks"]["kafka"] == "ok")
        yield running


async def post(api: Api, subscription_id: str, key: str, body: bytes = b"once") -> httpx.Response:
    return await api.client.post(f"/ingest/{subscription_id}", content=body, headers={"Idempotency-Key": key})


def rows(settings: Settings) -> list[Any]:
    connection = psycopg2.connect(settings.database_url.get_secret_value())
    try:
        with connection.cursor() as cursor:
            cursor.execute("select name, webhook_id, confirmed from idempotency_keys")
            return cursor.fetchall()
    finally:
        connection.close()


async def test_a_hundred_posts_of_one_key_at_once_are_one_event(each: Api) -> None:
    created, key = await each.subscribe(), str(uuid.uuid4())
    answers = await asyncio.gather(*(post(each, created["id"], key) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    ids = {answer.json()["webhook_id"] for answer in answers}
    [record] = await records_of(each, created["id"])
    assert {dict(record.headers)["webhook-id"].decode()} == ids
    assert sorted({answer.headers["idempotency-status"] for answer in answers}) == ["new", "repeated"]


async def test_a_hundred_posts_to_two_processes_are_one_event(each: Api, api_settings: Settings) -> None:
    """Two servers that share nothing but their stores."""
    created, key = await each.subscribe(), str(uuid.uuid4())
    async with running_api(each.settings) as other:
        await until(lambda: other.parts.watch.report()["checks"]["kafka"] == "ok")
        answers = await asyncio.gather(*(post((each, other)[n % 2], created["id"], key) for n in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["webhook_id"] for answer in answers}) == 1
    assert len(await records_of(each, created["id"])) == 1


async def test_a_repeat_is_answered_with_the_same_id_and_produces_nothing(each: Api) -> None:
    created, key = await each.subscribe(), str(uuid.uuid4())
    first = await post(each, created["id"], key)
    later = await post(each, created["id"], key)
    assert first.json() == later.json()
    assert (first.headers["idempotency-status"], later.headers["idempotency-status"]) == ("new", "repeated")
    assert len(await records_of(each, created["id"])) == 1


async def test_the_same_key_with_another_body_is_409(each: Api) -> None:
    created, key = await each.subscribe(), str(uuid.uuid4())
    answers = await asyncio.gather(*(post(each, created["id"], key, b"one or %d" % (n % 2)) for n in range(20)))
    assert sorted({answer.status_code for answer in answers}) == [202, 409]
    problem(await post(each, created["id"], key, b"a third"), 409, "idempotency_key_reused")
    assert len(await records_of(each, created["id"])) == 1


async def test_a_key_outlives_the_process_and_redis(each: Api, api_settings: Settings) -> None:
    """Redis gone, or come back empty: Postgres knows the key."""
    created, key = await each.subscribe(), str(uuid.uuid4())
    first = await post(each, created["id"], key)
    await each.parts.idempotency.stop()
    for url in (NOWHERE, _other_database(api_settings)):
        async with running_api(api_settings.model_copy(update={"redis_url": SecretStr(url)})) as later:
            again = await post(later, created["id"], key)
            assert again.json()["webhook_id"] == first.json()["webhook_id"]
            problem(await post(later, created["id"], key, b"other"), 409, "idempotency_key_reused")
    assert len(await records_of(each, created["id"])) == 1


def _other_database(settings: Settings) -> str:
    """The same Redis, and nothing of ours in it."""
    url = settings.redis_url.get_secret_value()
    return urlsplit(url)._replace(path="/7").geturl() if url else NOWHERE


async def post_event(api: Api, key: str, tenant: str, body: bytes = b"once", event_type: str = "a") -> httpx.Response:
    headers = {"Idempotency-Key": key, "X-Event-Type": event_type}
    return await api.client.post(f"/events?tenant={tenant}", content=body, headers=headers)


async def events_of(api: Api, tenant: str) -> list[Any]:
    records = await all_records(api.settings, api.settings.topics.events)
    return [record for record in records if dict(record.headers)["tenant"] == tenant.encode()]


async def test_a_hundred_events_of_one_key_at_once_are_one(each: Api) -> None:
    key, tenant = str(uuid.uuid4()), str(uuid.uuid4())
    answers = await asyncio.gather(*(post_event(each, key, tenant) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    [event_id] = {answer.json()["event_id"] for answer in answers}
    [record] = await events_of(each, tenant)
    assert record.key.decode() == event_id
    assert sorted({answer.headers["idempotency-status"] for answer in answers}) == ["new", "repeated"]
    again = await post_event(each, key, tenant)
    assert (again.json(), again.headers["idempotency-status"]) == ({"event_id": event_id}, "repeated")


async def test_an_events_key_with_another_body_or_type_is_409_and_of_another_tenant_another_one(api: Api) -> None:
    key, tenant, other = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    first = await post_event(api, key, tenant)
    problem(await post_event(api, key, tenant, body=b"other"), 409, "idempotency_key_reused")
    problem(await post_event(api, key, tenant, event_type="b"), 409, "idempotency_key_reused")
    second = await post_event(api, key, other)
    assert second.headers["idempotency-status"] == "new"
    assert second.json() != first.json()
    assert [len(await events_of(api, one)) for one in (tenant, other)] == [1, 1]
    for bad in (b"", b"x" * 256, "ü".encode()):
        headers = [(b"Idempotency-Key", bad), (b"X-Event-Type", b"a")]
        problem(await api.client.post("/events", content=b"x", headers=headers), 400, "idempotency_key_unusable")


async def test_a_repeat_of_an_unproduced_event_carries_its_id_and_time(
    api: Api, api_settings: Settings, closed_port: int
) -> None:
    key, tenant = str(uuid.uuid4()), str(uuid.uuid4())
    update = {"kafka_bootstrap_servers": f"127.0.0.1:{closed_port}", "ack_timeout_seconds": 0.5}
    async with running_api(api_settings.model_copy(update=update)) as down:
        problem(await post_event(down, key, tenant), 503, "not_confirmed")
    answer = await post_event(api, key, tenant)
    assert (answer.status_code, answer.headers["idempotency-status"]) == (202, "repeated")
    [record] = await events_of(api, tenant)
    claimed_ms = uuid.UUID(answer.json()["event_id"]).int >> 80
    accepted_at = datetime.fromisoformat(dict(record.headers)["accepted-at"].decode())
    assert accepted_at == datetime.fromtimestamp(claimed_ms / 1000, UTC)


async def test_a_key_belongs_to_its_subscription(api: Api) -> None:
    key = str(uuid.uuid4())
    first, second = await api.subscribe(), await api.subscribe()
    answers = [await post(api, created["id"], key, b"%d" % n) for n, created in enumerate((first, second))]
    assert [answer.headers["idempotency-status"] for answer in answers] == ["new", "new"]
    assert name_of("a", "b", b"c") != name_of("ab", "", b"c")


async def test_a_key_that_left_its_event_unproduced_is_produced_by_the_repeat(
    api: Api, api_settings: Settings, closed_port: int
) -> None:
    """The broker was away: 503, and the repeat, by another process, carries the first one's id and time."""
    created, key = await api.subscribe(), str(uuid.uuid4())
    update = {"kafka_bootstrap_servers": f"127.0.0.1:{closed_port}", "ack_timeout_seconds": 0.5}
    async with running_api(api_settings.model_copy(update=update)) as down:
        problem(await post(down, created["id"], key), 503, "not_confirmed")
        problem(await post(down, created["id"], key), 503, "not_confirmed")
    started_s = time.monotonic()
    answer = await post(api, created["id"], key)
    assert 1.5 < time.monotonic() - started_s < 4  # whoever claimed it might have been at work
    assert (answer.status_code, answer.headers["idempotency-status"]) == (202, "repeated")
    [record] = await records_of(api, created["id"])
    headers = {name: value.decode() for name, value in record.headers}
    assert headers["webhook-id"] == answer.json()["webhook_id"]
    claimed_ms = uuid.UUID(headers["webhook-id"]).int >> 80
    assert datetime.fromisoformat(headers["accepted-at"]) == datetime.fromtimestamp(claimed_ms / 1000, UTC)
    assert (await post(api, created["id"], key)).json() == answer.json()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_with_neither_store_an_event_is_accepted_unchecked(
    api: Api, api_settings: Settings, closed_port: int
) -> None:
    created, key = await api.subscribe(), str(uuid.uuid4())
    async with AsyncExitStack() as at_end:
        proxy = await at_end.enter_async_context(_postgres_proxy(api_settings))
        url = urlsplit(api_settings.database_url.get_secret_value())
        netloc = f"{url.username}:{url.password or ''}@127.0.0.1:{proxy.port}"
        update = {"database_url": SecretStr(url._replace(netloc=netloc).geturl()), "redis_url": SecretStr(NOWHERE)}
        down = await at_end.enter_async_context(running_api(api_settings.model_copy(update=update)))
        assert (await post(down, created["id"], "warm")).status_code == 202  # the subscription is in memory now
        await proxy.cut()
        answer = await post(down, created["id"], key)
        assert (answer.status_code, answer.headers["idempotency-status"]) == (202, "unchecked")
        started_s = time.monotonic()
        assert (await post(down, created["id"], key)).headers["idempotency-status"] == "unchecked"
        assert time.monotonic() - started_s < 0.5  # a dead store is not asked each time
        await proxy.open()
        async with asyncio.timeout(8):
            while (await post(down, created["id"], key)).headers["idempotency-status"] == "unchecked":  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def _postgres_proxy(settings: Settings) -> Any:
    url = urlsplit(settings.database_url.get_secret_value())
    return tcp_proxy(url.hostname or "", url.port or 5432)


async def test_a_postgres_that_stands_still_costs_a_bounded_wait(api: Api, api_settings: Settings) -> None:
    created = await api.subscribe()
    proxy: TcpProxy
    async with _postgres_proxy(api_settings) as proxy:
        url = urlsplit(api_settings.database_url.get_secret_value())
        netloc = f"{url.username}:{url.password or ''}@127.0.0.1:{proxy.port}"
        update = {"database_url": SecretStr(url._replace(netloc=netloc).geturl()), "redis_url": SecretStr("")}
        async with running_api(api_settings.model_copy(update=update)) as down:
            assert (await post(down, created["id"], "warm")).status_code == 202
            proxy.stall()
            started_s = time.monotonic()
            answers = await asyncio.gather(*(post(down, created["id"], str(uuid.uuid4())) for _ in range(50)))
            assert time.monotonic() - started_s < 3
            assert {answer.headers["idempotency-status"] for answer in answers} == {"unchecked"}
            proxy.flow()


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a b", b"\xff", "ü".encode(), b"tab\there"])
async def test_a_key_that_cannot_be_one_is_400(api: Api, key: bytes) -> None:
    created = await api.subscribe()
    url = f"/ingest/{created['id']}"
    answer = await api.client.post(url, content=b"x", headers=[(b"Idempotency-Key", key)])
    problem(answer, 400, "idempotency_key_unusable")


async def test_two_keys_are_400_and_the_longest_is_taken(api: Api) -> None:
    created = await api.subscribe()
    url = f"/ingest/{created['id']}"
    twice = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"a")]
    problem(await api.client.post(url, content=b"x", headers=twice), 400, "idempotency_key_unusable")
    assert (await post(api, created["id"], "x" * 255)).status_code == 202


async def test_a_verified_standard_webhook_id_is_a_key(api: Api) -> None:
    secret = "whsec_" + base64.b64encode(b"0123456789" * 3).decode()
    created = await api.subscribe(secret=secret, signature_scheme="standard")
    now = datetime.now(UTC)
    sent = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp()))}
    sent["webhook-signature"] = Webhook(secret).sign("msg_1", now, "body")
    answers = [await api.client.post(f"/ingest/{created['id']}", content=b"body", headers=sent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert len(await records_of(api, created["id"])) == 1


async def test_an_unverified_webhook_id_is_no_key(api: Api) -> None:
    created = await api.subscribe()
    for _ in range(2):
        answer = await api.client.post(f"/ingest/{created['id']}", content=b"x", headers={"webhook-id": "msg_1"})
        assert "idempotency-status" not in answer.headers
    assert len(await records_of(api, created["id"])) == 2


@pytest.mark.parametrize("scheme", ["stripe", "shopify"])
async def test_the_other_schemes_verify_as_well(api: Api, scheme: str) -> None:
    created = await api.subscribe(secret="s3cret", signature_scheme=scheme)
    now_s = int(time.time())
    stripe = f"t={now_s},v1={hmac.new(b's3cret', b'%d.body' % now_s, 'sha256').hexdigest()}"
    shopify = base64.b64encode(hmac.digest(b"s3cret", b"body", "sha256")).decode()
    headers = {"stripe": {"Stripe-Signature": stripe}, "shopify": {"X-Shopify-Hmac-Sha256": shopify}}[scheme]
    url = f"/ingest/{created['id']}"
    assert (await api.client.post(url, content=b"body", headers=headers)).status_code == 202
    problem(await api.client.post(url, content=b"bodY", headers=headers), 401, "signature_invalid")


async def test_a_filtered_event_claims_nothing(api: Api) -> None:
    created, key = await api.subscribe(event_type="a"), str(uuid.uuid4())
    answer = await api.client.post(
        f"/ingest/{created['id']}?event_type=b", content=b"x", headers={"Idempotency-Key": key}
    )
    assert answer.json()["status"] == "filtered"
    answer = await api.client.post(
        f"/ingest/{created['id']}?event_type=a", content=b"y", headers={"Idempotency-Key": key}
    )
    assert (answer.status_code, answer.headers["idempotency-status"]) == (202, "new")


async def test_without_a_key_no_store_is_asked(api: Api, api_settings: Settings) -> None:
    before = rows(api_settings)
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id']}", content=b"x")
    assert "idempotency-status" not in answer.headers
    assert rows(api_settings) == before


# ---- the stores themselves ------------------------------------------------------------------------------------------


@pytest.fixture
async def keys(settings: Settings) -> AsyncIterator[KeyRows]:
    database = Database(settings.database_url.get_secret_value())
    stored = KeyRows(database, SystemClock())
    yield stored
    await stored.stop()
    database.close()


def _execute(settings: Settings, statement: str) -> None:
    connection = psycopg2.connect(settings.database_url.get_secret_value())
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


async def test_an_expired_row_is_as_good_as_none_and_is_swept_in_batches(keys: KeyRows, settings: Settings) -> None:
    old, new = Claim("old", b"1" * 32), Claim("new", b"2" * 32)
    assert await keys.claim(b"a", old) == Fresh()
    assert await keys.claim(b"a", new) == old
    await keys.put(b"a", Claim("old", b"1" * 32, confirmed=True))
    _execute(settings, "update idempotency_keys set expires_at = now() - interval '1 second'")
    assert await keys.claim(b"a", new) == Fresh()
    assert await keys.claim(b"a", old) == new
    _execute(
        settings,
        "insert into idempotency_keys select sha256(n::text::bytea), 'x', 'x', true, now() - interval '1 hour'"
        " from generate_series(1, 2500) n",
    )
    assert await asyncio.to_thread(keys.sweep) == 2500
    assert [bytes(name) for name, _, _ in rows(settings)] == [b"a"]


async def test_claims_of_one_name_in_one_batch_have_one_winner(keys: KeyRows) -> None:
    claims = [Claim(str(n), b"1" * 32) for n in range(200)]
    found = await asyncio.gather(*(keys.claim(b"n%d" % (n % 2), claim) for n, claim in enumerate(claims)))
    assert [n for n, one in enumerate(found) if one == Fresh()] == [0, 1]
    assert {one.webhook_id for one in found if isinstance(one, Claim)} == {"0", "1"}


async def test_redis_keeps_a_key_for_a_day_and_neither_key_nor_body(settings: Settings) -> None:
    import redis as client

    if not (url := settings.redis_url.get_secret_value()):
        pytest.skip("this stack has no Redis")
    cache = KeyCache(url, prefix=settings.topic_prefix, clock=SystemClock())
    mine, other = Claim("mine", b"1" * 32), Claim("other", b"2" * 32)
    name = name_of("default", "route", b"canary-key")
    assert [await cache.claim(name, mine), await cache.claim(name, other)] == [Fresh(), mine]
    await cache.put(name, Claim("mine", b"1" * 32, confirmed=True))
    assert await cache.claim(name, other) == Claim("mine", b"1" * 32, confirmed=True)
    with client.Redis.from_url(url) as direct:
        [key] = direct.keys(f"{settings.topic_prefix}idempotency:*")
        assert 23 * 3600 < direct.ttl(key) <= 24 * 3600
        assert b"canary" not in key + direct.get(key)
        direct.set(key, b"nonsense")
    assert await cache.claim(name, mine) == Unasked()
    await cache.close()
