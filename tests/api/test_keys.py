"""/keys, and what a key is worth: shown once, revoked everywhere, of one tenant, with Postgres and without."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text

from shared.clock import from_rfc3339
from shared.kafka import ensure_topics
from shared.settings import Settings
from tests.api.conftest import Api, running_api, until
from tests.api.test_ingest import SECRET, problem, records_of, signed
from tests.conftest import FreshSettings, delete_topics
from tests.eventually import eventually
from tests.tcp_proxy import TcpProxy, tcp_proxy

ADMIN = "the-admin-key"
NOBODYS = "hk_" + "A" * 43
Headers = dict[str, str]


def bearer(key: str) -> Headers:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
async def locked_settings(fresh_settings: FreshSettings) -> AsyncIterator[Settings]:
    settings = fresh_settings(admin_api_key=ADMIN, dev_receiver=True)
    await ensure_topics(settings)
    yield settings
    await delete_topics(settings)


@pytest.fixture(scope="module")
async def locked(locked_settings: Settings) -> AsyncIterator[Api]:
    async with running_api(locked_settings) as running:
        yield running


async def create_key(api: Api, role: str, by: str = ADMIN, **fields: Any) -> dict[str, Any]:
    answer = await api.client.post("/keys/", json={"role": role, **fields}, headers=bearer(by))
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def subscribe(api: Api, by: str = ADMIN, **fields: Any) -> dict[str, Any]:
    body = {"target_url": "https://example.com/hook", **fields}
    answer = await api.client.post("/subscriptions/", json=body, headers=bearer(by))
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_answer_to_a_creation_shows_the_key_once(locked: Api, slash: str) -> None:
    body = {"role": "publish", "tenant": "acme", "name": "shop, Zürich"}
    answer = await locked.client.post(f"/keys{slash}", json=body, headers=bearer(ADMIN))
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    created = answer.json()
    key = created.pop("key")
    assert key.startswith(created["prefix"])
    assert len(created["prefix"]) == 8
    assert from_rfc3339(created["created_at"])
    assert {name: created[name] for name in body} == body
    listed = await locked.client.get("/keys/", headers=bearer(ADMIN))
    assert created in listed.json()
    assert key[8:] not in listed.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "canary"},
        {"role": "read", "tenant": "can ary"},
        {"role": "read", "tenant": ""},
        {"role": "read", "tenant": "x" * 65},
        {"role": "read", "tenants": "canary"},
        {"role": "read", "name": "canary\x00"},
        {"role": "read", "name": "canary\r\nx"},
        {"role": "read", "name": "\ud800"},
        {"role": "read", "name": "canary" * 20},
        {"role": ["read"]},
        [],
    ],
)
async def test_what_cannot_be_created_is_422_and_not_repeated(locked: Api, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = {**bearer(ADMIN), "Content-Type": "application/json"}
    answer = await locked.client.post("/keys/", content=content, headers=headers)
    problem(answer, 422, "invalid_request")
    assert "canary" not in answer.text.replace("tenants", "")


@pytest.mark.parametrize("key_id", ["x", "%00", "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2", "1" * 1000])
async def test_ids_that_nobody_has_are_404(locked: Api, key_id: str) -> None:
    problem(await locked.client.delete(f"/keys/{key_id}", headers=bearer(ADMIN)), 404, "not_found")


async def test_lists_are_bounded_and_filtered_by_the_tenant_of_the_key(locked: Api) -> None:
    boss = await create_key(locked, "admin", tenant="list-tenant")
    others = [await create_key(locked, "read", tenant="list-tenant") for _ in range(2)]
    listed = (await locked.client.get("/keys/", headers=bearer(boss["key"]))).json()
    assert [one["id"] for one in listed] == [one["id"] for one in (boss, *others)]
    page = (await locked.client.get("/keys/?skip=1&limit=1", headers=bearer(boss["key"]))).json()
    assert page == listed[1:2]
    for query in ("limit=0", "limit=101", "skip=-1", "limit=x"):
        problem(await locked.client.get(f"/keys/?{query}", headers=bearer(ADMIN)), 422, "invalid_request")


async def test_an_admin_of_a_tenant_makes_and_revokes_only_keys_of_that_tenant(locked: Api) -> None:
    boss = (await create_key(locked, "admin", tenant="acme"))["key"]
    assert (await create_key(locked, "publish", by=boss))["tenant"] == "acme"
    assert (await create_key(locked, "publish", by=boss, tenant="acme"))["tenant"] == "acme"
    refused = await locked.client.post("/keys/", json={"role": "read", "tenant": "other"}, headers=bearer(boss))
    problem(refused, 403, "tenant_refused")
    for foreign in (await create_key(locked, "read", tenant="other"), await create_key(locked, "read")):
        answer = await locked.client.delete(f"/keys/{foreign['id']}", headers=bearer(boss))
        problem(answer, 404, "not_found")
        unknown = await locked.client.delete("/keys/0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2", headers=bearer(boss))
        assert answer.content == unknown.content
        assert (await locked.client.get("/subscriptions/", headers=bearer(foreign["key"]))).status_code == 200


async def test_a_revoked_key_stops_at_once_here_and_within_a_second_elsewhere(
    locked: Api, locked_settings: Settings
) -> None:
    created = await create_key(locked, "read")
    async with running_api(locked_settings) as elsewhere:
        for api in (locked, elsewhere):
            assert (await api.client.get("/subscriptions/", headers=bearer(created["key"]))).status_code == 200
        revoked = await locked.client.delete(f"/keys/{created['id']}", headers=bearer(ADMIN))
        revoked_s = time.monotonic()
        assert (revoked.status_code, revoked.content) == (204, b"")
        refused = await locked.client.get("/subscriptions/", headers=bearer(created["key"]))
        problem(refused, 401, "key_required")
        await asyncio.sleep(revoked_s + 1 - time.monotonic())
        refused = await elsewhere.client.get("/subscriptions/", headers=bearer(created["key"]))
        problem(refused, 401, "key_required")
    again = await locked.client.delete(f"/keys/{created['id']}", headers=bearer(ADMIN))
    problem(again, 404, "not_found")


async def test_a_subscription_takes_the_tenant_of_the_key_that_makes_it(locked: Api) -> None:
    of_acme = (await create_key(locked, "manage", tenant="acme"))["key"]
    assert (await subscribe(locked, by=of_acme))["tenant"] == "acme"
    assert (await subscribe(locked, by=of_acme, tenant="acme"))["tenant"] == "acme"
    assert (await subscribe(locked))["tenant"] == "default"
    for tenant in ("other", "default"):
        body = {"target_url": "https://example.com/hook", "tenant": tenant}
        refused = await locked.client.post("/subscriptions/", json=body, headers=bearer(of_acme))
        problem(refused, 403, "tenant_refused")


async def test_in_the_stream_the_tenant_is_the_subscriptions_whatever_a_header_says(locked: Api) -> None:
    created = await subscribe(locked, tenant="acme")
    key = (await create_key(locked, "publish"))["key"]
    forged = {"tenant": "evil", "X-Tenant": "evil", "hooklog-tenant": "evil"}
    accepted = await locked.client.post(f"/ingest/{created['id']}", content=b"x", headers=bearer(key) | forged)
    assert accepted.status_code == 202
    [record] = await records_of(locked, created["id"])
    assert dict(record.headers)["tenant"] == b"acme"
    assert b"evil" not in b"".join(value for _name, value in record.headers)


async def test_signed_ingest_looks_at_no_key_and_at_no_tenant_of_one(locked: Api) -> None:
    created = await subscribe(locked, tenant="acme", secret=SECRET)
    foreign = (await create_key(locked, "read", tenant="other"))["key"]
    for headers in ({}, bearer("nonsense"), bearer(NOBODYS), bearer(foreign)):
        answer = await locked.client.post(f"/ingest/{created['id']}", content=b"{}", headers=signed(b"{}") | headers)
        assert answer.status_code == 202, headers


@pytest.mark.parametrize(
    "authorization", ["Bearer", "Bearer x x", "Basic eDp5", f"Bearer {NOBODYS}", "Bearer \xff", "x"]
)
async def test_what_is_no_key_is_401_also_for_unsigned_ingest(locked: Api, authorization: str) -> None:
    created = await subscribe(locked)
    for method, path in (("GET", "/subscriptions/"), ("POST", f"/ingest/{created['id']}")):
        headers = [(b"Authorization", authorization.encode("latin-1"))]
        answer = await locked.client.request(method, path, headers=headers)
        problem(answer, 401, "key_required")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_two_keys_at_once_are_none(locked: Api) -> None:
    headers = [("Authorization", f"Bearer {ADMIN}"), ("Authorization", f"Bearer {ADMIN}")]
    problem(await locked.client.get("/subscriptions/", headers=headers), 401, "key_required")


async def test_the_details_of_health_are_for_readers(locked: Api) -> None:
    for role, sees_all in (("publish", False), ("read", True)):
        key = (await create_key(locked, role))["key"]
        await locked.client.get("/subscriptions/", headers=bearer(key))  # known from here on
        answer = (await locked.client.get("/health", headers=bearer(key))).json()
        assert ("checks" in answer) is sees_all


async def test_with_keys_bodies_are_json_and_loops_end_all_the_same(locked: Api) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
        headers = bearer(ADMIN) | {"Content-Type": content_type}
        problem(await locked.client.post("/keys/", content=b"{}", headers=headers), 415, "json_required")
    looping = bearer(ADMIN) | {"X-Hooklog-Hops": "3"}
    problem(await locked.client.get("/keys/", headers=looping), 403, "loop_detected")
    assert (await locked.client.get("/keys/", headers=bearer(ADMIN) | {"X-Hooklog-Hops": "2"})).status_code == 200


async def test_an_unknown_key_comes_before_every_other_refusal(locked: Api) -> None:
    headers = bearer(NOBODYS) | {"X-Hooklog-Hops": "3", "Content-Type": "text/plain"}
    problem(await locked.client.post("/keys/", content=b"x", headers=headers), 401, "key_required")


async def test_a_key_stands_nowhere_but_in_the_answer_to_its_creation(
    locked: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        created = await create_key(locked, "admin", tenant="acme", name="canary")
        key = created["key"]
        subscription = await subscribe(locked, by=key)
        ingest = await locked.client.post(f"/ingest/{subscription['id']}", content=b"x", headers=bearer(key))
        paths = ("/keys/", "/subscriptions/", "/health", f"/subscriptions/{subscription['id']}", "/nowhere")
        answers = [ingest, *[await locked.client.get(path, headers=bearer(key)) for path in paths]]
        answers.append(await locked.client.post("/keys/", json={"role": key}, headers=bearer(key)))
        answers.append(await locked.client.delete(f"/keys/{created['id']}", headers=bearer(key)))
        answers.append(await locked.client.get("/keys/", headers=bearer(key)))
    assert [answer.status_code for answer in answers] == [202, 200, 200, 200, 200, 404, 422, 204, 401]
    for secret_part in (key[8:], ADMIN):
        assert not [one for one in answers if secret_part in one.text + str(one.headers)]
        ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
        assert not [record for record in ours if secret_part in f"{record.getMessage()} {record.__dict__}"]
        assert secret_part not in await asyncio.to_thread(_everything_in_postgres, locked)
        assert secret_part.encode() not in await asyncio.to_thread(_everything_in_redis, locked.settings)
        for record in await records_of(locked, subscription["id"]):
            assert secret_part.encode() not in record.value + b"".join(value for _name, value in record.headers)
    assert {"key created", "key revoked"} <= {record.getMessage() for record in caplog.records}


def _everything_in_postgres(api: Api) -> str:
    names = text("select tablename from pg_tables where schemaname = 'public'")
    with api.parts.database.transaction() as connection:
        tables = connection.execute(names).scalars().all()
        rows = [connection.execute(text(f'select t::text from "{table}" t')).scalars().all() for table in tables]
    assert "api_keys" in tables
    return "\n".join(row for of_one in rows for row in of_one)


def _everything_in_redis(settings: Settings) -> bytes:
    url = settings.redis_url.get_secret_value()
    if not url:
        return b""
    with redis.Redis.from_url(url) as client:
        names = list(client.scan_iter(f"{settings.topic_prefix}*"))
        return b"\n".join(name + (client.dump(name) or b"") for name in names)


@pytest.fixture
async def behind_proxy(locked_settings: Settings) -> AsyncIterator[tuple[Api, TcpProxy]]:
    """The same API with its Postgres behind a proxy, and without Redis."""
    url = urlsplit(locked_settings.database_url.get_secret_value())
    async with tcp_proxy(str(url.hostname), int(url.port or 5432)) as proxy:
        there = url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
        away = {"database_url": SecretStr(there), "redis_url": SecretStr("")}
        async with running_api(locked_settings.model_copy(update=away)) as running:
            yield running, proxy


async def test_without_postgres_known_keys_work_and_unknown_ones_are_503(
    locked: Api, behind_proxy: tuple[Api, TcpProxy]
) -> None:
    api, proxy = behind_proxy
    known = (await create_key(locked, "publish"))["key"]
    created = await subscribe(locked)
    path = f"/ingest/{created['id']}"
    assert (await api.client.post(path, content=b"1", headers=bearer(known))).status_code == 202
    await proxy.cut()
    await until(lambda: api.parts.watch.report()["checks"]["postgres"] == "down")
    for key in (known, ADMIN):
        assert (await api.client.post(path, content=b"2", headers=bearer(key))).status_code == 202
    for key in (NOBODYS, (await create_key(locked, "publish"))["key"]):
        answer = await api.client.post(path, content=b"3", headers=bearer(key))
        problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        problem(await api.client.get("/status/x", headers=bearer(key)), 503, "store_unavailable")
    problem(await api.client.post(path, content=b"4"), 401, "key_required")
    began_s = time.monotonic()
    assert (await api.client.get("/health", headers=bearer(NOBODYS))).json().keys() == {"status"}
    assert time.monotonic() - began_s < 1
    await proxy.open()
    await eventually(lambda: _is_401(api, path))


async def _is_401(api: Api, path: str) -> bool:
    return (await api.client.post(path, content=b"5", headers=bearer(NOBODYS))).status_code == 401


async def test_without_keys_the_routes_are_there_and_what_they_make_is_of_use_later(api: Api) -> None:
    created = (await api.client.post("/keys/", json={"role": "read"})).json()
    assert (await api.client.get("/subscriptions/", headers=bearer(NOBODYS))).status_code == 200
    settings = api.settings.model_copy(update={"admin_api_key": SecretStr(ADMIN)})
    async with running_api(settings) as locked_later:
        assert (await locked_later.client.get("/subscriptions/", headers=bearer(created["key"]))).status_code == 200
    assert (await api.client.delete(f"/keys/{created['id']}")).status_code == 204


async def test_a_flood_of_unknown_keys_leaves_known_ones_their_speed(locked: Api) -> None:
    known = (await create_key(locked, "read"))["key"]

    async def guess() -> httpx.Response:
        return await locked.client.get("/subscriptions/", headers=bearer(NOBODYS))

    guesses = [asyncio.create_task(guess()) for _ in range(50)]
    began_s = time.monotonic()
    assert (await locked.client.get("/subscriptions/", headers=bearer(known))).status_code == 200
    assert time.monotonic() - began_s < 2
    for answer in await asyncio.gather(*guesses):
        problem(answer, 401, "key_required")
