"""POST /ingest/{id}: what is taken, what is refused, and what then stands in the topic."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.record_ids import uuid7_ms
from shared.signature import hub_signature
from tests.api.conftest import Api, close

SECRET = "correct horse battery staple"


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"X-Hub-Signature-256": hub_signature(secret.encode(), body), "Content-Type": "application/json"}


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The answer is this problem, in the one form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert isinstance(body["detail"], str)
    assert isinstance(body["title"], str)
    return body


async def records_of(api: Api, subscription_id: str) -> list[Any]:
    return [record for record in await api.records() if record.key == subscription_id.encode()]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_signed_event_is_accepted_in_the_contracts_form(api: Api, slash: str) -> None:
    created = await api.subscribe(secret=SECRET)
    body = b'{"event_type": "order.created"}'
    answer = await api.client.post(f"/ingest/{created['id']}{slash}", content=body, headers=signed(body))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    accepted = answer.json()
    assert accepted["status"] == "accepted"
    assert accepted["message"]
    assert accepted["subscription_id"] == created["id"]
    assert accepted["webhook_id"] == accepted["delivery_id"] == accepted["task_id"]
    assert uuid7_ms(accepted["webhook_id"])


async def test_the_topic_holds_the_exact_bytes_and_text_headers(api: Api) -> None:
    created = await api.subscribe(tenant="acme")
    body = b'{ "b" : 1.0,\n "a": "\\u00e9 \xc3\xa9", "type": "from.body" }  '
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"Content-Type": "application/json; charset=utf-8", "traceparent": trace, "X-Hooklog-Hops": "2"}
    answer = await api.client.post(f"/ingest/{created['id']}", content=body, headers=headers)
    [record] = await records_of(api, created["id"])
    texts = {name: value.decode() for name, value in record.headers}
    assert record.value == body
    assert texts.pop("accepted-at").endswith("Z")
    assert texts == {
        "webhook-id": answer.json()["webhook_id"],
        "subscription-id": created["id"],
        "event-type": "from.body",
        "content-type": "application/json; charset=utf-8",
        "tenant": "acme",
        "run": "1",
        "attempt": "1",
        "waits": "0",
        "hops": "2",
        "traceparent": trace,
    }


@pytest.mark.parametrize("body", [b"", b"plain text", b"\x00\xff\xfe not utf-8", b"x" * 65536])
async def test_any_body_up_to_the_cap_is_taken_as_it_is(api: Api, body: bytes) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id']}", content=body)
    assert answer.status_code == 202
    [record] = await records_of(api, created["id"])
    assert record.value == body
    assert "content-type" not in dict(record.headers)


@pytest.mark.parametrize("traceparent", ["junk", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-1-1-1"])
async def test_a_trace_context_that_is_none_is_left_out(api: Api, traceparent: str) -> None:
    created = await api.subscribe()
    await api.client.post(f"/ingest/{created['id']}", content=b"x", headers={"traceparent": traceparent})
    [record] = await records_of(api, created["id"])
    assert "traceparent" not in dict(record.headers)


async def test_missing_malformed_non_ascii_and_wrong_signatures_are_one_answer_and_produce_nothing(api: Api) -> None:
    created = await api.subscribe(secret=SECRET)
    body = b'{"a": 1}'
    right = hub_signature(SECRET.encode(), body).encode()
    given: list[bytes | None] = [
        None,
        b"",
        b"sha256=",
        right.removeprefix(b"sha256="),
        b"sha1=" + right[7:],
        "sha256=ümläut".encode(),
        b"\xff\xfe\xfd",
        b"sha256=" + b"0" * 64,
        hub_signature(b"another secret", body).encode(),
        hub_signature(SECRET.encode(), body + b" ").encode(),
    ]
    answers = []
    for value in given:
        head = [(b"Content-Type", b"application/json")] + (
            [(b"X-Hub-Signature-256", value)] if value is not None else []
        )
        answers.append(await api.client.post(f"/ingest/{created['id']}", content=body, headers=head))
    for answer in answers:
        problem(answer, 401, "signature_invalid")
    assert len({answer.content for answer in answers}) == 1
    later = await api.client.post(f"/ingest/{created['id']}", content=body, headers=signed(body))
    assert later.status_code == 202
    assert [dict(record.headers)["webhook-id"].decode() for record in await records_of(api, created["id"])] == [
        later.json()["webhook_id"]
    ]


async def test_nothing_is_said_about_a_body_before_its_signature_holds(api: Api) -> None:
    created = await api.subscribe(secret=SECRET, event_types=["order.*"])
    answer = await api.client.post(
        f"/ingest/{created['id']}", content=b"{not json", headers={"Content-Type": "application/json"}
    )
    problem(answer, 401, "signature_invalid")


@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.x+json; charset=utf-8", "Text/JSON"])
@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b"NaN", b'"\\ud800"', b"\xff", b"[" * 5000 + b"]" * 5000])
async def test_json_must_parse_when_the_type_says_json(api: Api, content_type: str, body: bytes) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id']}", content=body, headers={"Content-Type": content_type})
    problem(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    "text",
    [
        str(uuid.uuid4()),
        "not-a-uuid",
        "1",
        "%00",
        "%ff%fe",
        "%ed%a0%80",
        "{" + str(uuid.uuid4()) + "}",
        "x" * 5000,
        "%F0%9F%92%A9",
    ],
)
async def test_unknown_and_malformed_ids_are_404(api: Api, text: str) -> None:
    problem(await api.client.post(f"/ingest/{text}", content=b"x"), 404, "not_found")


async def test_the_id_in_capitals_is_the_same_subscription(api: Api) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id'].upper()}", content=b"x")
    assert answer.status_code == 202
    assert answer.json()["subscription_id"] == created["id"]


async def test_a_filter_takes_what_matches_and_answers_filtered_for_the_rest(api: Api) -> None:
    created = await api.subscribe(event_types=["order.*", "user.created"])
    url = f"/ingest/{created['id']}"

    async def post(event_type: str) -> Any:
        return await api.client.post(url, json={"x": 1}, headers={"X-Event-Type": event_type})

    assert (await post("order.paid")).json()["status"] == "accepted"
    assert (await post("user.created")).json()["status"] == "accepted"
    left_out = await post("user.deleted")
    assert left_out.status_code == 202
    assert left_out.json().keys() == {"status", "message", "subscription_id"}
    assert left_out.json()["status"] == "filtered"
    assert len(await records_of(api, created["id"])) == 2


async def test_a_filter_and_no_event_type_is_400(api: Api) -> None:
    created = await api.subscribe(event_type="order.created")
    problem(await api.client.post(f"/ingest/{created['id']}", json={"x": 1}), 400, "event_type_missing")
    problem(await api.client.post(f"/ingest/{created['id']}", content=b"text"), 400, "event_type_missing")
    assert (await api.client.post(f"/ingest/{created['id']}?event_type=order.created", content=b"x")).status_code == 202


async def test_the_header_names_the_type_before_query_and_body(api: Api) -> None:
    created = await api.subscribe()
    await api.client.post(
        f"/ingest/{created['id']}?event_type=query", json={"event_type": "body"}, headers={"X-Event-Type": "header"}
    )
    await api.client.post(f"/ingest/{created['id']}?event_type=query", json={"event_type": "body"})
    await api.client.post(f"/ingest/{created['id']}", json={"event_type": "body"})
    found = [dict(record.headers)["event-type"] for record in await records_of(api, created["id"])]
    assert found == [b"header", b"query", b"body"]


@pytest.mark.parametrize("value", ["a%0d%0ab", "%00", "x" * 257, "%C3%A9"])
async def test_an_event_type_that_cannot_be_a_header_is_400(api: Api, value: str) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id']}?event_type={value}", content=b"x")
    problem(answer, 400, "event_type_unusable")


async def test_a_content_type_that_cannot_be_handed_on_is_400(api: Api) -> None:
    created = await api.subscribe()
    for value in (b"text/" + b"x" * 300, b"text/\xff"):
        answer = await api.client.post(f"/ingest/{created['id']}", content=b"x", headers=[(b"Content-Type", value)])
        problem(answer, 400, "content_type_unusable")


async def test_a_compressed_body_is_415(api: Api) -> None:
    created = await api.subscribe()
    answer = await api.client.post(
        f"/ingest/{created['id']}", content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}
    )
    problem(answer, 415, "encoding_refused")


async def chunks(count: int, size_bytes: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size_bytes


async def test_a_body_over_the_cap_is_413_declared_or_chunked(api: Api) -> None:
    created = await api.subscribe()
    url = f"/ingest/{created['id']}"
    problem(await api.client.post(url, content=b"x" * 65537), 413, "body_too_large")
    problem(await api.client.post(url, content=chunks(9, 8192)), 413, "body_too_large")
    problem(await api.client.post(url, content=chunks(500, 8192)), 413, "body_too_large")
    assert (await api.client.post(url, content=chunks(8, 8192))).status_code == 202


async def test_a_chunked_413_comes_without_reading_to_the_end(api: Api) -> None:
    created = await api.subscribe()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        f"POST /ingest/{created['id']} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    for _ in range(9):
        writer.write(b"2000\r\n" + b"x" * 8192 + b"\r\n")
    await writer.drain()
    async with asyncio.timeout(5):
        head = await reader.readline()  # the body has no end: we are never done sending
    assert head.startswith(b"HTTP/1.1 413 ")
    await close(writer)


async def test_a_body_shorter_than_declared_produces_nothing(api: Api) -> None:
    created = await api.subscribe()
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        f"POST /ingest/{created['id']} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nonly this".encode()
    )
    await writer.drain()
    await close(writer)
    later = await api.client.post(f"/ingest/{created['id']}", content=b"whole")
    assert later.status_code == 202
    assert [record.value for record in await records_of(api, created["id"])] == [b"whole"]


async def test_what_passed_through_three_times_goes_no_further(api: Api) -> None:
    created = await api.subscribe()
    url = f"/ingest/{created['id']}"
    for count, status in (("2", 202), ("junk", 202), ("3", 403), ("4", 403), ("9" * 50, 403)):
        answer = await api.client.post(url, content=b"x", headers={"X-Hooklog-Hops": count})
        assert answer.status_code == status
    problem(answer, 403, "loop_detected")


async def test_paused_and_disabled_subscriptions_accept(api: Api) -> None:
    created = await api.subscribe()
    for status in ("paused", "disabled"):
        await asyncio.to_thread(api.parts.store.set_status, created["id"], status)
        assert (await api.client.post(f"/ingest/{created['id']}", content=b"x")).status_code == 202
    assert len(await records_of(api, created["id"])) == 2


async def test_a_deleted_subscription_is_404_within_a_second(api: Api) -> None:
    created = await api.subscribe()
    assert (await api.client.post(f"/ingest/{created['id']}", content=b"x")).status_code == 202
    assert (await api.client.delete(f"/subscriptions/{created['id']}")).status_code == 204
    async with asyncio.timeout(1.5):
        while (await api.client.post(f"/ingest/{created['id']}", content=b"x")).status_code != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_each_of_many_at_once_is_one_record(api: Api) -> None:
    created = await api.subscribe(secret=SECRET)
    bodies = [json.dumps({"n": number}).encode() for number in range(100)]
    answers = await asyncio.gather(
        *(api.client.post(f"/ingest/{created['id']}", content=body, headers=signed(body)) for body in bodies)
    )
    ids = {answer.json()["webhook_id"] for answer in answers}
    found = await records_of(api, created["id"])
    assert {record.value for record in found} == set(bodies)
    assert {dict(record.headers)["webhook-id"].decode() for record in found} == ids
    assert len(found) == 100
