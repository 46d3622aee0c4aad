"""POST /events: what is taken, what is refused, and what then stands in the topic."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from shared.record_ids import new_webhook_id, uuid7_ms
from shared.settings import Settings
from tests.api.conftest import Api, all_records, running_api, until
from tests.api.test_access import BEARER, locked
from tests.api.test_ingest import problem

__all__ = ["locked"]  # a fixture
JSON = {"Content-Type": "application/json"}


async def record_of(api: Api, answer: Any) -> Any:
    """The one record of the event that was accepted."""
    assert answer.status_code == 202, answer.text
    assert answer.json().keys() == {"event_id"}
    key = answer.json()["event_id"].encode()
    (record,) = [one for one in await all_records(api.settings, api.settings.topics.events) if one.key == key]
    return record


def headers_of(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


@pytest.mark.parametrize("path", ["/events", "/events/"])
async def test_an_envelope_becomes_its_payloads_exact_bytes(api: Api, path: str) -> None:
    payload = b'{ "b" : 1.50e1,\n "a": "\\u00e9 \xc3\xa9", "payload": 2 }'
    body = b'{"event_type": "order.paid", "tenant": "acme" , "payload" :  ' + payload + b' , "note": null}'
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {"Content-Type": "application/json; charset=utf-8", "traceparent": trace, "X-Hooklog-Hops": "1"}
    answer = await api.client.post(path, content=body, headers=sent)
    record = await record_of(api, answer)
    assert record.value == payload
    headers = headers_of(record)
    assert headers.pop("accepted-at").endswith("Z")
    assert headers == {
        "webhook-id": answer.json()["event_id"],
        "event-type": "order.paid",
        "content-type": "application/json",
        "tenant": "acme",
        "hops": "1",
        "traceparent": trace,
    }
    assert uuid7_ms(headers["webhook-id"])


@pytest.mark.parametrize(
    ("sent", "query"),
    [({"X-Event-Type": "file.new"}, ""), ({}, "?event_type=file.new"), ({}, "?event_type=file.new&tenant=t")],
)
async def test_with_a_type_outside_of_it_any_body_is_the_payload(api: Api, sent: dict[str, str], query: str) -> None:
    body = b"\x00\xff not JSON at all"
    answer = await api.client.post(f"/events{query}", content=body, headers={"Content-Type": "image/png", **sent})
    record = await record_of(api, answer)
    headers = headers_of(record)
    assert record.value == body
    assert (headers["event-type"], headers["content-type"]) == ("file.new", "image/png")
    assert headers["tenant"] == ("t" if "tenant" in query else "default")


async def test_with_the_header_an_envelope_is_a_payload_like_any_other(api: Api) -> None:
    body = b'{"event_type": "inner", "payload": 1}'
    record = await record_of(api, await api.client.post("/events", content=body, headers={"X-Event-Type": "outer"}))
    assert (record.value, headers_of(record)["event-type"]) == (body, "outer")


@pytest.mark.parametrize("payload", [b"null", b"0", b'""', b"[]", b"{}", b"false"])
async def test_an_empty_payload_is_a_payload(api: Api, payload: bytes) -> None:
    body = b'{"event_type": "e", "payload": ' + payload + b"}"
    assert (await record_of(api, await api.client.post("/events", content=body))).value == payload


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"payload": {}}', JSON, 400, "event_type_missing"),
        (b'{"event_type": 7, "payload": {}}', JSON, 400, "event_type_missing"),
        (b"[]", JSON, 400, "event_type_missing"),
        (b"", {}, 400, "event_type_missing"),
        (b"plain", {"Content-Type": "text/plain"}, 400, "event_type_missing"),
        (b'{"event_type": "a\\nb", "payload": {}}', JSON, 400, "event_type_unusable"),
        (b"x", {"X-Event-Type": "x" * 257}, 400, "event_type_unusable"),
        (b"x", {"X-Event-Type": "hooklog.subscription.disabled"}, 400, "event_type_reserved"),
        (b'{"event_type": "hooklog.anything", "payload": {}}', JSON, 400, "event_type_reserved"),
        (b'{"event_type": "a"', JSON, 400, "malformed_json"),
        (b"{", JSON | {"X-Event-Type": "a"}, 400, "malformed_json"),
        (b'{"event_type": "a", "payload": ' + b"[" * 5000 + b"]" * 5000 + b"}", JSON, 400, "malformed_json"),
        (b'{"event_type": "a"}', JSON, 422, "payload_missing"),
        (b'{"event_type": "a", "payload": 1, "tenant": "no spaces"}', JSON, 422, "tenant_unusable"),
        (b'{"event_type": "a", "payload": 1, "tenant": 1}', JSON, 422, "tenant_unusable"),
        (b'{"event_type": "a", "payload": 1, "tenant": ""}', JSON, 422, "tenant_unusable"),
        (b"x" * 70_000, {"X-Event-Type": "a"}, 413, "body_too_large"),
        (gzip.compress(b"{}"), {"X-Event-Type": "a", "Content-Encoding": "gzip"}, 415, "encoding_refused"),
        (b"x", {"X-Event-Type": "a", "X-Hooklog-Hops": "3"}, 403, "loop_detected"),
        (b"x", {"X-Event-Type": "a", "Origin": "https://evil.example"}, 403, "origin_refused"),
    ],
)
async def test_what_is_refused_and_never_repeated(
    api: Api, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await api.client.post("/events", content=body, headers=headers)
    problem(answer, status, code)
    assert "no spaces" not in answer.text


async def test_where_keys_are_required_an_event_needs_one(locked: Api) -> None:
    sent = {"X-Event-Type": "a"}
    problem(await locked.client.post("/events", content=b"x", headers=sent), 401, "key_required")
    assert (await locked.client.post("/events", content=b"x", headers=sent | BEARER)).status_code == 202


async def test_the_status_is_known_from_the_202_on(api: Api) -> None:
    """Nothing reads the topics here."""
    answer = await api.client.post("/events", json={"event_type": "a", "payload": {}, "tenant": "acme"})
    found = (await api.client.get(f"/status/{answer.json()['event_id']}")).json()
    assert (found["status"], found["event_type"], found["tenant"]) == ("queued", "a", "acme")
    assert (found["deliveries"], found["matched"], found["subscription_id"]) == ([], None, None)


async def test_what_a_tenants_events_become_is_bounded_per_second(api: Api) -> None:
    """10 KB for 3 subscriptions at 10 KB a second: the first one makes a debt of one second, and the next one waits."""
    tenant = new_webhook_id()
    for _ in range(3):
        await api.subscribe(tenant=tenant, event_types=["big.*"])
    slow = api.settings.model_copy(update={"max_fanout_bytes_per_second": 10_000})

    async def post(event_type: str, to: str = tenant) -> Any:
        sent = {"X-Event-Type": event_type}
        return await running.client.post(f"/events?tenant={to}", content=b"x" * 10_000, headers=sent)

    async with running_api(slow) as running:
        await until(lambda: running.parts.subscriptions.peek_tenant(tenant) is not None)
        for _ in range(5):
            assert (await post("small.unwanted")).status_code == 202
        assert (await post("big.one")).status_code == 202
        refused = await post("big.one")
        problem(refused, 429, "fan_out_limit")
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert (await post("big.one", new_webhook_id())).status_code == 202, "another tenant has its own"


async def test_a_tenant_may_have_so_many_subscriptions(api: Api) -> None:
    few: Settings = api.settings.model_copy(update={"max_subscriptions_per_tenant": 2})
    async with running_api(few) as running:
        tenant = new_webhook_id()
        created = [await running.subscribe(tenant=tenant) for _ in range(2)]
        body = {"target_url": "https://example.com/hook", "tenant": tenant}
        refused = await running.client.post("/subscriptions/", json=body)
        problem(refused, 429, "subscription_limit")
        assert refused.headers["retry-after"]
        assert (await running.client.delete(f"/subscriptions/{created[0]['id']}")).status_code == 204
        assert (await running.client.post("/subscriptions/", json=body)).status_code == 201


async def test_the_description_knows_the_route(api: Api) -> None:
    described = (await api.client.get("/openapi.json")).json()["paths"]["/events"]["post"]
    assert set(described["responses"]) >= {"202", "400", "401", "403", "413", "415", "422", "429", "503"}
    assert "Retry-After" in described["responses"]["429"]["headers"]
