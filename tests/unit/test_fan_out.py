"""One event record through fan-out: what is published, in which order, and what waits."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import orjson

from delivery_stream.fan_out import FanOutIO, fan_out
from shared.attempt_records import FannedOut, attempt_from_json
from shared.clock import SystemClock
from shared.errors import RecordTooLarge
from shared.records import Event, Record
from shared.subscriptions import Interest, Unreachable
from tests.unit.examples import NOW_MS, TOPICS


class StoppedClock(SystemClock):
    """Sleeps at once, and notes how long."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return NOW_MS

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)


class Bench:
    """Answers for one tenant, in turn; the last one stays."""

    def __init__(self, *answers: Sequence[Interest] | Unreachable, too_large: bool = False) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.published: list[Sequence[Record]] = []
        self.too_large = too_large
        self.clock = StoppedClock()
        self.io = FanOutIO(subscriptions=self, publish=self.publish, clock=self.clock, topics=TOPICS)

    async def of_tenant(self, tenant: str) -> Sequence[Interest] | Unreachable:
        self.asked.append(tenant)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def publish(self, records: Sequence[Record]) -> None:
        if self.too_large and records[0].topic == TOPICS.deliveries:
            raise RecordTooLarge("too large")
        self.published.append(list(records))


def record_of(event: Event) -> Any:
    record = event.to_record(TOPICS.events)
    return SimpleNamespace(
        topic=record.topic,
        partition=2,
        offset=9,
        key=record.key,
        value=record.value,
        headers=record.headers,
        timestamp=1,
    )


EVENT = Event("event-1", b'{"n": 1}', NOW_MS - 5, event_type="order.paid", tenant="acme")


async def test_all_deliveries_are_confirmed_before_the_event_is_said_to_be_fanned_out() -> None:
    bench = Bench([Interest(f"s{number}", ()) for number in range(1200)])
    await fan_out(record_of(EVENT), bench.io)
    assert bench.asked == ["acme"]
    assert [len(chunk) for chunk in bench.published] == [500, 500, 200, 1]
    assert {record.topic for chunk in bench.published[:-1] for record in chunk} == {TOPICS.deliveries}
    assert len({dict(record.headers)["webhook-id"] for chunk in bench.published[:-1] for record in chunk}) == 1200
    said = attempt_from_json(bench.published[-1][0].value)
    assert said == FannedOut(
        "fanned_out", "event-1", "acme", "order.paid", NOW_MS - 5, NOW_MS, 1200, source="webhooks.events:2:9"
    )
    assert bench.published[-1][0].topic == TOPICS.attempts


async def test_an_event_that_nobody_wants_is_recorded() -> None:
    bench = Bench([Interest("s", ("user.*",))])
    await fan_out(record_of(EVENT), bench.io)
    ((said,),) = bench.published
    body = orjson.loads(said.value or b"")
    assert (body["kind"], body["webhook_id"], body["matched"]) == ("unmatched", "event-1", 0)


async def test_while_nobody_can_tell_who_wants_it_the_event_waits_longer_and_longer() -> None:
    bench = Bench(*[Unreachable()] * 7, [Interest("s", ())])
    await fan_out(record_of(EVENT), bench.io)
    assert bench.clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert [len(chunk) for chunk in bench.published] == [1, 1]


async def test_a_record_without_payload_is_a_dead_letter_as_it_came() -> None:
    bench = Bench([])
    record = record_of(EVENT)
    record.value = None
    await fan_out(record, bench.io)
    ((dead,),) = bench.published
    assert (dead.topic, dead.key, dead.value) == (TOPICS.dead_letter, b"event-1", None)
    assert dict(dead.headers)["reason"] == b"null value"
    assert dict(dead.headers)["source"] == b"webhooks.events:2:9"


async def test_an_event_too_large_for_a_delivery_is_a_dead_letter() -> None:
    bench = Bench([Interest("s", ())], too_large=True)
    await fan_out(record_of(EVENT), bench.io)
    ((dead,),) = bench.published
    assert (dead.topic, dead.value) == (TOPICS.dead_letter, EVENT.payload)
    assert dict(dead.headers)["reason"] == b"too large for its next hop"
