"""What a decision writes: the next hop and the attempt log."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest

from delivery_stream.conclusion import WAITS_MAX, Waiting, conclude, put_off, schedule_for
from delivery_stream.decision import (
    Answered,
    Cancelled,
    DeadLetter,
    Delivered,
    NoAnswer,
    NoSubscription,
    NotActive,
    Outcome,
    Park,
    RetryIn,
    StoresUnreachable,
    Timings,
    Wait,
)
from delivery_stream.deliver import Ended
from delivery_stream.records_after import attempt_record, next_hop
from shared.errors import RecordTooLarge
from shared.records import Record, Source, delivery_from_record
from shared.topics import RetrySchedule
from tests.unit.examples import NOW_MS, TOPICS, deliver_io, delivery, subscription


def headers_of(record: Record | None) -> dict[str, str]:
    assert record is not None
    return {name: value.decode() for name, value in record.headers}


def test_a_retry_asks_for_the_next_attempt_in_its_tier() -> None:
    hop = next_hop(delivery(hops=2), Answered(500), RetryIn(40), NOW_MS, TOPICS)
    assert hop is not None
    assert hop.topic == "webhooks.retry-40s"
    assert hop.key == delivery().subscription_id.encode()
    again = delivery_from_record(Source("t", 0, 0), hop.value, hop.headers, 0)
    # The hops stay: through a loop of installations a retry must not start the count again.
    assert (again.attempt, again.run, again.waits, again.hops) == (2, 1, 0, 2)
    assert again.due_ms == NOW_MS + 40_000
    assert again.not_before_ms is None
    assert again.payload == delivery().payload


def test_a_retry_after_beyond_the_longest_tier_travels_along() -> None:
    headers = headers_of(next_hop(delivery(), Answered(503), RetryIn(40, 3600), NOW_MS, TOPICS))
    assert headers["not-before"] == "2023-11-14T23:13:20.123Z"


def test_a_dead_letter_tells_why_and_whence() -> None:
    failure = NoAnswer("timeout", "no answer in 10 s")
    hop = next_hop(delivery(attempt=7), failure, DeadLetter("exhausted"), NOW_MS, TOPICS)
    headers = headers_of(hop)
    assert hop is not None
    assert hop.topic == "webhooks.dead-letter"
    assert headers["reason"] == "exhausted"
    assert headers["last-error"] == "timeout: no answer in 10 s"
    assert headers["source"] == "webhooks.deliveries:3:77"
    assert headers["failed-at"] == "2023-11-14T22:13:20.123Z"
    assert headers["attempt"] == "7"
    assert "last-status" not in headers


def test_what_arrived_or_is_not_wanted_goes_nowhere_and_what_is_paused_is_parked() -> None:
    assert next_hop(delivery(), Answered(200), Delivered(), NOW_MS, TOPICS) is None
    assert next_hop(delivery(), Answered(200), Cancelled("subscription deleted"), NOW_MS, TOPICS) is None
    parked = next_hop(delivery(attempt=3), Answered(200), Park(), NOW_MS, TOPICS)
    assert parked is not None
    assert parked.topic == "webhooks.parked"
    assert headers_of(parked)["attempt"] == "3"


def test_the_attempt_log_says_what_came_back_and_when_the_next_follows() -> None:
    outcome = Answered(500, body=b"no\x00 way\n", timings=Timings(total_ms=12.3456, dns_ms=0.5, address="192.0.2.1"))
    row = attempt_record(delivery(), subscription(), outcome, RetryIn(10), NOW_MS, NOW_MS + 12)
    assert row.outcome == "failed_attempt"
    assert row.http_status_code == 500
    assert row.error_class == "http_status"
    assert row.error_details == "no  way"
    assert row.duration_ms == 12.346
    assert row.timings_ms == {"dns": 0.5}
    assert row.next_attempt_ms == NOW_MS + 12 + 10_000
    assert row.target_url == "https://example.com/hook"


def test_error_details_are_bounded_and_printable() -> None:
    outcome = Answered(500, body=("ü\x1b" * 5000).encode())
    row = attempt_record(delivery(), subscription(), outcome, RetryIn(10), NOW_MS, NOW_MS)
    assert row.error_details is not None
    assert len(row.error_details) <= 500
    assert row.error_details.isprintable()


def test_the_tenant_comes_from_the_subscription_and_never_from_a_header() -> None:
    row = attempt_record(
        delivery(tenant="forged"), subscription(tenant="theirs"), Answered(200), Delivered(), NOW_MS, NOW_MS
    )
    assert row.tenant == "theirs"


def test_a_subscription_may_have_a_schedule_of_its_own() -> None:
    everybodys = RetrySchedule((10,))
    assert schedule_for(subscription(), everybodys) == everybodys
    assert schedule_for(None, everybodys) == everybodys
    assert schedule_for(subscription(retry_delays=(1, 2)), everybodys) == RetrySchedule((1, 2))


class Log:
    """A Kafka that writes what it takes, and refuses values of more than 1000 bytes but in the dead letters."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.publishes = 0

    async def publish(self, records: Sequence[Record]) -> None:
        self.publishes += 1
        for record in records:
            if len(record.value or b"") > 1000 and record.topic != TOPICS.dead_letter:
                raise RecordTooLarge("too large")
            self.records.append(record)

    def topics_of(self, webhook_id: str) -> list[str]:
        return [record.topic for record in self.records if _webhook_id(record) == webhook_id]


def _webhook_id(record: Record) -> object:
    if record.topic == TOPICS.attempts:
        return orjson.loads(record.value or b"")["webhook_id"]
    return headers_of(record)["webhook-id"]


async def test_what_is_put_off_goes_together_and_what_may_not_wait_any_more_ends() -> None:
    log = Log()
    ids = ["first", "second", "too-old", "too-often"]
    old_ms, often = NOW_MS - 2 * 3_600_000, WAITS_MAX
    deliveries = [
        delivery(webhook_id="first"),
        delivery(webhook_id="second", waits=4),
        delivery(webhook_id="too-old", accepted_ms=old_ms),
        delivery(webhook_id="too-often", waits=often),
    ]
    waiting = [Waiting(one, subscription(), Wait(1.0, "breaker_open")) for one in deliveries]
    await put_off(waiting, NOW_MS, deliver_io(log.publish))
    told, tier, dead = "webhooks.attempts", "webhooks.retry-1s", "webhooks.dead-letter"
    # The fifth wait is no power of two: it is not told of.
    assert [log.topics_of(one) for one in ids] == [[told, tier], [tier], [told, dead], [told, dead]]
    assert log.publishes == 3, "one for all that wait, one for each that ends"
    assert all(headers_of(record)["waits"] in ("1", "5") for record in log.records if record.topic == tier)


@pytest.mark.parametrize(
    ("wait", "tier", "due_s", "not_before_s"),
    [
        (Wait(4.0, "rate_limited"), "webhooks.retry-4s", 4, None),
        (Wait(4.001, "rate_limited"), "webhooks.retry-4s", 4, 4.001),
        (Wait(0.25, "rate_limited"), "webhooks.retry-1s", 1, None),
        (Wait(2.5, "breaker_open"), "webhooks.retry-1s", 1, 2.5),
        (Wait(3600.0, "throttled"), "webhooks.retry-10s", 10, 3600),
        (Wait(4.0, "stores_unreachable"), "webhooks.retry-4s", 4, None),
        # An endpoint's pace is a guess: one tier, and no second hop for the rest of it.
        (Wait(2.5, "busy"), "webhooks.retry-4s", 4, None),
        (Wait(9.0, "busy"), "webhooks.retry-10s", 10, None),
        (Wait(3600.0, "busy"), "webhooks.retry-10s", 10, None),
    ],
)
async def test_a_put_off_delivery_asks_for_the_same_attempt_and_only_what_is_longer_than_its_tier_travels_along(
    wait: Wait, tier: str, due_s: int, not_before_s: float | None
) -> None:
    log = Log()
    before = delivery(attempt=3, run=2, waits=5, hops=1, due_ms=NOW_MS - 20, not_before_ms=NOW_MS - 10)
    await put_off([Waiting(before, subscription(), wait)], NOW_MS, deliver_io(log.publish))
    [record] = log.records
    assert (record.topic, record.key) == (tier, before.subscription_id.encode())
    not_before_ms = None if not_before_s is None else NOW_MS + int(not_before_s * 1000)
    again = delivery_from_record(Source("webhooks.deliveries", 3, 77), record.value, record.headers, 0)
    assert again == before.again(waits=6, due_ms=NOW_MS + 1000 * due_s, not_before_ms=not_before_ms)


async def test_the_attempt_log_says_of_a_put_off_delivery_what_it_waits_for_and_until_when() -> None:
    log = Log()
    one = Waiting(delivery(attempt=3, waits=1), subscription(), Wait(3600.0, "throttled"))
    await put_off([one], NOW_MS, deliver_io(log.publish))
    told = orjson.loads(log.records[0].value or b"")
    assert (told["kind"], told["reason"], told["attempt"], told["waits"]) == ("waiting", "throttled", 3, 2)
    assert told["next_attempt_at"] == "2023-11-14T23:13:20.123Z"


async def test_what_ended_together_is_put_on_record_together_each_for_itself() -> None:
    log = Log()
    outcomes: dict[str, Outcome] = {
        "arrived": Answered(200),
        "failed": Answered(500),
        "waits": StoresUnreachable(),
        "waited-too-often": StoresUnreachable(),
        "paused": NotActive("paused"),
        "deleted": NoSubscription(),
    }
    ended = [
        Ended(
            delivery(webhook_id=one, waits=WAITS_MAX if one == "waited-too-often" else 0),
            None if isinstance(outcome, NoSubscription | StoresUnreachable) else subscription(),
            outcome,
            NOW_MS,
        )
        for one, outcome in outcomes.items()
    ]
    conclusions = conclude(ended, deliver_io(log.publish))
    assert [one.finished for one in conclusions] == [True, True, False, True, False, True]
    assert [one.record is not None for one in conclusions] == [True, False, False, False, False, True]
    assert log.publishes == 0
    for one in conclusions:
        await one.publish()
    told = "webhooks.attempts"
    assert [log.topics_of(one) for one in outcomes] == [
        [told],
        [told, "webhooks.retry-10s"],
        [told, "webhooks.retry-4s"],
        [told, "webhooks.dead-letter"],
        [told, "webhooks.parked"],
        [told],
    ]
    assert [conclusions[0].record, conclusions[5].record] == [log.records[0], log.records[-1]]


async def test_a_failure_that_is_too_large_for_its_tier_is_dead() -> None:
    log = Log()
    large = delivery(webhook_id="large", payload=b"x" * 1001)
    [conclusion] = conclude([Ended(large, subscription(), Answered(500), NOW_MS)], deliver_io(log.publish))
    await conclusion.publish()
    # What Kafka had taken before it refused is written again.
    assert log.topics_of("large") == ["webhooks.attempts", "webhooks.attempts", "webhooks.dead-letter"]


async def test_one_that_is_too_large_for_its_next_hop_takes_no_other_with_it() -> None:
    log = Log()
    deliveries = [delivery(webhook_id="small"), delivery(webhook_id="large", payload=b"x" * 1001)]
    await put_off(
        [Waiting(one, subscription(), Wait(1.0, "busy")) for one in deliveries], NOW_MS, deliver_io(log.publish)
    )
    # What Kafka had taken before it refused is written again.
    assert log.topics_of("small") == 2 * ["webhooks.attempts", "webhooks.retry-1s"]
    assert log.topics_of("large")[-1] == "webhooks.dead-letter"
    assert "webhooks.retry-1s" not in log.topics_of("large")
