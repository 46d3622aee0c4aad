"""No endpoint can hurt another, and each gets what it asks for: all processes, and receivers that misbehave."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from delivery_stream.breaker import FAILURES_IN_A_ROW
from tests.receiver import Answer, Receiver
from tests.system import System, read_topic


@pytest.fixture
async def healthy(system: System, receiver: Receiver) -> AsyncIterator[str]:
    """The id of a subscription that answers at once, and is known to."""
    subscription = await system.subscribe(receiver.url + "/healthy")
    await system.status_when(await system.ingest(subscription["id"], b"{}"), "succeeded")
    yield subscription["id"]
    receiver.script("/healthy", 200)


async def log_of(system: System, subscription_id: str, kind: str) -> list[dict[str, Any]]:
    records = await read_topic(system.settings, system.settings.topics.attempts)
    found = [orjson.loads(record.value) for record in records]
    return [one for one in found if one["kind"] == kind and one.get("subscription_id") == subscription_id]


async def until_logged(system: System, subscription_id: str, kind: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 20
    while not (found := await log_of(system, subscription_id, kind)):
        assert time.monotonic() < deadline, f"nothing of the kind {kind}"
    return found


async def test_a_dead_endpoint_holds_up_nobody_and_loses_nothing(
    system: System, receiver: Receiver, healthy: str
) -> None:
    receiver.script("/dead", Answer(hold=True))
    dead = await system.subscribe(receiver.url + "/dead")
    lost_time = await system.ingest_many((dead["id"], b'{"n": %d}' % number) for number in range(60))

    before = len(receiver.of("/healthy"))
    await system.ingest_many((healthy, b'{"n": %d}' % number) for number in range(100))
    await receiver.wait_for(before + 100, "/healthy", timeout_s=15)
    assert len(receiver.of("/dead")) < 60, "a new endpoint gets a few at once"
    waits = await until_logged(system, dead["id"], "waiting")
    receiver.release("/dead")

    for webhook_id in lost_time:
        await system.status_when(webhook_id, "succeeded", within_s=60)
    assert {wait["reason"] for wait in waits} <= {"busy", "throttled", "breaker_open"}
    waited = {wait["webhook_id"] for wait in waits}
    first = {a.headers["webhook-id"]: a.headers["x-webhook-attempt"] for a in reversed(receiver.of("/dead"))}
    assert all(first[webhook_id] == "1" for webhook_id in waited), "waiting is no attempt"


async def test_a_rate_limit_is_kept_and_a_burst_comes_spread_out(system: System, receiver: Receiver) -> None:
    rate, events = 10, 40
    subscription = await system.subscribe(receiver.url + "/limited", rate_limit=rate)
    accepted = await system.ingest_many((subscription["id"], b"{}") for _ in range(events))

    arrivals = await receiver.wait_for(events, "/limited", timeout_s=40)

    assert sorted(arrival.headers["webhook-id"] for arrival in arrivals) == sorted(accepted)
    assert {arrival.headers["x-webhook-attempt"] for arrival in arrivals} == {"1"}
    times = [arrival.at_s for arrival in arrivals]
    slack = 2  # the receiver's clock looks at arrivals, the bucket at departures
    for start in range(events):
        for end in range(start, events):
            assert end - start + 1 <= rate * (times[end] - times[start]) + rate + slack


async def test_429_with_a_time_is_obeyed_by_everything_for_that_endpoint(system: System, receiver: Receiver) -> None:
    receiver.script("/busy", Answer(429, headers=(("Retry-After", "3"),)), 200)
    subscription = await system.subscribe(receiver.url + "/busy")
    accepted = [await system.ingest(subscription["id"], b"{}")]
    await receiver.wait_for(1, "/busy")
    await system.status_when(accepted[0], "retrying")
    accepted += [await system.ingest(subscription["id"], b"{}") for _ in range(3)]

    arrivals = await receiver.wait_for(4, "/busy", timeout_s=30)

    assert min(arrival.at_s for arrival in arrivals[1:]) - arrivals[0].at_s >= 2.9
    for webhook_id in accepted:
        await system.status_when(webhook_id, "succeeded")


async def test_a_broken_endpoint_is_left_alone_shown_and_found_again_when_it_works(
    system: System, receiver: Receiver, healthy: str
) -> None:
    receiver.script("/broken", 500)
    subscription = await system.subscribe(receiver.url + "/broken", retry_delays=["1s", "2s"])
    accepted = await system.ingest_many((subscription["id"], b"{}") for _ in range(30))
    await receiver.wait_for(FAILURES_IN_A_ROW, "/broken", timeout_s=20)

    shown = await until_logged(system, subscription["id"], "breaker")
    assert shown[0]["breaker"] == "open"
    assert shown[0]["reason"] == "fails"
    seen = len(receiver.of("/broken"))
    assert seen <= FAILURES_IN_A_ROW + 8, "what was under way when it opened, and a probe"
    receiver.script("/broken", 200)
    for webhook_id in accepted:
        await system.status_when(webhook_id, "succeeded", within_s=60)
    assert (await log_of(system, subscription["id"], "waiting"))[0]["reason"] == "breaker_open"
