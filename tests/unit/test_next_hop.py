"""Where a due record goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retry_scheduler.next_hop import CLOCK_SKEW_MS, NOT_BEFORE_MAX_MS, Hops, Tiered
from shared.records import Delivery, Record, Source, delivery_from_record
from shared.topics import RetrySchedule, Topics

TOPICS = Topics("w.")
NOW_MS = 1_700_000_010_000
APPENDED_MS = NOW_MS - 10_000
DELIVERY = Delivery(
    "id-1", "sub-1", b"payload", APPENDED_MS - 50, event_type="order.paid", run=2, attempt=3, waits=1, due_ms=NOW_MS
)


def hops(delays_s: tuple[int, ...] = (10, 40, 160), limit: int = 10_000, dead_limit: int = 20_000) -> Hops:
    limits = {TOPICS.dead_letter: dead_limit}
    return Hops(TOPICS, RetrySchedule(delays_s), lambda topic: limits.get(topic, limit))


def tiered(delivery: Delivery, topic: str = "w.retry-10s") -> Tiered:
    record = delivery.to_record(topic)
    return Tiered(Source(topic, 1, 7), record.key, record.value, record.headers, APPENDED_MS)


def as_delivery(record: Record) -> Delivery:
    return delivery_from_record(Source(record.topic, 0, 0), record.value, record.headers, NOW_MS)


def test_a_due_record_goes_back_to_deliveries_as_it_was() -> None:
    record = hops().after(tiered(DELIVERY), NOW_MS)
    assert (record.topic, record.key) == ("w.deliveries", b"sub-1")
    assert as_delivery(record) == DELIVERY.again(due_ms=None)


def test_a_not_before_still_ahead_takes_the_longest_tier_within_it_and_is_not_late_by_a_tier() -> None:
    later = DELIVERY.again(not_before_ms=NOW_MS + 39_000)
    record = hops().after(tiered(later), NOW_MS)
    assert record.topic == "w.retry-10s"
    assert as_delivery(record) == later.again(waits=2, due_ms=NOW_MS + 10_000)
    last = hops().after(tiered(later), NOW_MS + 38_500)
    assert last.topic == "w.retry-1s"


def test_a_not_before_that_has_passed_is_dropped() -> None:
    record = hops().after(tiered(DELIVERY.again(not_before_ms=NOW_MS)), NOW_MS)
    assert record.topic == "w.deliveries"
    assert as_delivery(record).not_before_ms is None


def test_beyond_every_tier_the_longest_is_taken() -> None:
    record = hops().after(tiered(DELIVERY.again(not_before_ms=NOW_MS + 3_600_000)), NOW_MS)
    assert record.topic == "w.retry-160s"


def test_with_no_retries_left_in_the_settings_there_are_still_tiers_to_wait_in() -> None:
    record = hops(delays_s=()).after(tiered(DELIVERY.again(not_before_ms=NOW_MS + 1)), NOW_MS)
    assert record.topic == "w.retry-1s"


def test_a_wait_of_a_day_by_a_clock_that_is_ahead_of_the_broker_s_is_waited_for_to_its_end_and_no_longer() -> None:
    day_ms, ahead_ms = 24 * 3600 * 1000, 7
    asked = DELIVERY.again(not_before_ms=APPENDED_MS + ahead_ms + day_ms)
    now_ms, record = NOW_MS, hops().after(tiered(asked), NOW_MS)
    while record.topic != TOPICS.deliveries:
        waiting, appended_ms = as_delivery(record), now_ms
        now_ms = waiting.due_ms or 0
        assert waiting.not_before_ms == asked.not_before_ms
        assert now_ms > appended_ms
        record = hops().after(replace(tiered(waiting, record.topic), appended_ms=appended_ms), now_ms)
    assert 0 <= now_ms - APPENDED_MS - ahead_ms - day_ms < 1000


@pytest.mark.parametrize(("ahead_ms", "topic"), [(CLOCK_SKEW_MS, "w.retry-160s"), (CLOCK_SKEW_MS + 1, "w.deliveries")])
def test_a_clock_may_be_ahead_by_minutes_and_no_more(ahead_ms: int, topic: str) -> None:
    asked = DELIVERY.again(not_before_ms=APPENDED_MS + ahead_ms + 24 * 3600 * 1000)
    assert hops().after(tiered(asked), NOW_MS).topic == topic


def test_a_not_before_that_nobody_of_us_wrote_keeps_no_record_circling() -> None:
    foreign = DELIVERY.again(not_before_ms=APPENDED_MS + NOT_BEFORE_MAX_MS + 1)
    assert hops().after(tiered(foreign), NOW_MS).topic == "w.deliveries"


def test_a_record_that_cannot_be_read_is_dead_lettered_raw_with_its_source() -> None:
    foreign = Tiered(Source("w.retry-10s", 1, 7), b"\xff", b"?", [("x", b"\xfe")], APPENDED_MS)
    record = hops().after(foreign, NOW_MS)
    assert (record.topic, record.key, record.value) == ("w.dead-letter", b"\xff", b"?")
    headers = dict(record.headers)
    assert (headers["x"], headers["reason"], headers["source"]) == (b"\xfe", b"no subscription-id", b"w.retry-10s:1:7")


def test_a_dead_letter_has_a_key_or_a_value_or_aiokafka_refuses_it() -> None:
    empty = Tiered(Source("w.retry-10s", 1, 7), None, None, [], APPENDED_MS)
    assert all(record.key is not None for record in hops().dead_letters(empty, "null value", NOW_MS))
    assert hops().after(empty, NOW_MS).key == b""


def test_one_too_large_for_its_next_hop_is_dead_lettered_without_foreign_headers() -> None:
    large = tiered(DELIVERY)
    large = replace(large, headers=[*large.headers, ("x-foreign", b"f" * 5_000)], value=b"p" * 11_000)
    record = hops().after(large, NOW_MS)
    headers = dict(record.headers)
    assert (record.topic, record.value, headers["reason"]) == ("w.dead-letter", b"p" * 11_000, b"too large")
    assert "x-foreign" not in headers


def test_one_too_large_for_the_dead_letters_leaves_its_place_there() -> None:
    record = hops().after(replace(tiered(DELIVERY), value=b"p" * 50_000), NOW_MS)
    assert (record.topic, record.value, dict(record.headers)["source"]) == ("w.dead-letter", None, b"w.retry-10s:1:7")


def test_what_was_parked_asks_for_the_same_attempt_and_carries_the_time_of_its_pauses() -> None:
    record = hops().resumed(tiered(DELIVERY.again(paused_ms=5, not_before_ms=NOW_MS + 50_000), "w.parked"), NOW_MS)
    assert (record.topic, record.key) == ("w.deliveries", b"sub-1")
    assert as_delivery(record) == DELIVERY.again(due_ms=None, paused_ms=5 + NOW_MS - APPENDED_MS)


def test_a_clock_that_is_behind_the_one_that_parked_takes_nothing_from_a_pause() -> None:
    record = hops().resumed(tiered(DELIVERY.again(paused_ms=5), "w.parked"), APPENDED_MS - 1)
    assert as_delivery(record).paused_ms == 5


def test_what_was_parked_and_cannot_go_back_is_dead_lettered() -> None:
    unreadable = replace(tiered(DELIVERY, "w.parked"), headers=[("x", b"y")])
    large = replace(tiered(DELIVERY, "w.parked"), value=b"l" * 10_000)
    for parked, reason in ((unreadable, b"no subscription-id"), (large, b"too large")):
        record = hops().resumed(parked, NOW_MS)
        assert (record.topic, dict(record.headers)["reason"]) == ("w.dead-letter", reason)
