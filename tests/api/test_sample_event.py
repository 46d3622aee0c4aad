"""POST /subscriptions/{id}/test: a record like every other one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.record_ids import uuid7_ms
from tests.api.conftest import Api
from tests.api.test_ingest import problem, records_of

CANARY = "canary-90ab1"


def _headers(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_sample_stands_in_the_topic_whatever_the_filter_says(api: Api, slash: str) -> None:
    created = await api.subscribe(event_types=["order.*"], tenant="acme", secret="incoming")
    answer = await api.client.post(f"/subscriptions/{created['id']}/test{slash}")
    assert answer.status_code == 202, answer.text
    accepted = answer.json()
    assert accepted.pop("message")
    assert accepted == {
        "status": "accepted",
        "webhook_id": accepted["webhook_id"],
        "subscription_id": created["id"],
        "event_type": "hooklog.test",
    }
    assert uuid7_ms(accepted["webhook_id"])
    [record] = await records_of(api, created["id"])
    headers = _headers(record)
    assert json.loads(record.value)["event_type"] == "hooklog.test"
    assert (headers["webhook-id"], headers["event-type"]) == (accepted["webhook_id"], "hooklog.test")
    assert (headers["tenant"], headers["content-type"], headers["attempt"]) == ("acme", "application/json", "1")
    status = await api.client.get(f"/status/{accepted['webhook_id']}")
    assert (status.status_code, status.json()["status"]) == (200, "queued")


async def test_a_sample_can_be_of_any_type_and_payload(api: Api) -> None:
    created = await api.subscribe()
    payload = {"order": [1, "é", None, 1.5]}
    answer = await api.client.post(
        f"/subscriptions/{created['id']}/test", json={"event_type": "order.paid", "payload": payload}
    )
    assert (answer.status_code, answer.json()["event_type"]) == (202, "order.paid")
    [record] = await records_of(api, created["id"])
    assert json.loads(record.value) == payload
    assert _headers(record)["event-type"] == "order.paid"


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"event_type": f"{CANARY}\r\nX: 1"}),
        json.dumps({"event_type": ""}),
        json.dumps({"event_type": "order.*"}),
        json.dumps({"event_type": "x" * 257}),
        json.dumps({"event_type": None}),
        json.dumps({"payload": CANARY + "\ud800"}),
        '{"payload": ' + "1" * 40 + "}",
        '{"payload": ' + "[" * 500 + "]" * 500 + "}",
        json.dumps({"unknown": CANARY}),
        json.dumps([CANARY]),
    ],
)
async def test_what_cannot_be_sent_is_422_and_never_echoed(api: Api, content: str) -> None:
    created = await api.subscribe()
    answer = await api.client.post(
        f"/subscriptions/{created['id']}/test", content=content, headers={"Content-Type": "application/json"}
    )
    problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert await records_of(api, created["id"]) == []


async def test_a_payload_over_the_cap_of_events_is_413(api: Api) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/subscriptions/{created['id']}/test", json={"payload": "x" * 70_000})
    problem(answer, 413, "body_too_large")


async def test_a_sample_that_came_through_us_too_often_is_403(api: Api) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/subscriptions/{created['id']}/test", headers={"X-Hooklog-Hops": "3"})
    problem(answer, 403, "loop_detected")
