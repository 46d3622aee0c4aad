"""Records survive the way through Kafka, and no record makes a reader raise anything but UnreadableRecord."""

from __future__ import annotations

import uuid
from dataclasses import asdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.attempt_records import Attempt, Disabled, FannedOut, LaneState, attempt_from_json
from shared.clock import to_rfc3339
from shared.errors import UnreadableRecord
from shared.record_ids import attempt_id, delivery_id
from shared.records import Delivery, Event, Source, delivery_from_record, event_from_record, raw_dead_letter
from tests.strategies import attempts, deliveries, disabled, events, fan_outs, lane_states

HERE = Source("webhooks.deliveries", 3, 77)
OUR_NAMES = ["webhook-id", "subscription-id", "attempt", "run", "waits", "hops", "accepted-at", "due-at", "not-before"]
foreign_headers = st.lists(
    st.tuples(st.sampled_from(OUR_NAMES) | st.text(max_size=10), st.binary(max_size=40)), max_size=8
)


@given(deliveries())
def test_a_delivery_round_trips(delivery: Delivery) -> None:
    record = delivery.to_record("webhooks.deliveries")
    read = delivery_from_record(HERE, record.value, record.headers, timestamp_ms=5)
    assert read == delivery
    assert read.source == HERE


@given(attempts())
def test_an_attempt_round_trips(attempt: Attempt) -> None:
    assert attempt_from_json(attempt.to_record("webhooks.attempts").value) == attempt


@given(attempts())
def test_what_is_absent_of_an_attempt_is_left_out_and_times_are_rfc_3339(attempt: Attempt) -> None:
    times = ("accepted_ms", "attempted_ms", "next_attempt_ms")
    there = {name: value for name, value in asdict(attempt).items() if value is not None}
    body = {name.replace("_ms", "_at"): to_rfc3339(there.pop(name)) for name in times if name in there}
    assert orjson.loads(attempt.to_record("webhooks.attempts").value or b"") == there | body | {"id": attempt.id}


@given(events())
def test_an_event_round_trips(event: Event) -> None:
    record = event.to_record("webhooks.events")
    assert record.key == event.id.encode()
    assert event_from_record(HERE, record.value, record.headers, timestamp_ms=5) == event


@given(fan_outs())
def test_what_became_of_an_event_round_trips(fanned_out: FannedOut) -> None:
    assert attempt_from_json(fanned_out.to_record("webhooks.attempts").value) == fanned_out


@given(lane_states())
def test_a_lanes_change_round_trips_under_its_subscription(state: LaneState) -> None:
    record = state.to_record("webhooks.attempts")
    assert record.key == state.subscription_id.encode()
    assert attempt_from_json(record.value) == state


@given(disabled())
def test_a_disabling_round_trips_under_its_subscription(what: Disabled) -> None:
    record = what.to_record("webhooks.attempts")
    assert record.key == what.subscription_id.encode()
    assert attempt_from_json(record.value) == what


@given(st.binary(max_size=50), foreign_headers, st.integers(-1, 2**41))
def test_a_foreign_event_with_a_payload_is_read(
    value: bytes, headers: list[tuple[str, bytes]], timestamp_ms: int
) -> None:
    event = event_from_record(HERE, value, headers, timestamp_ms)
    assert event.payload == value
    assert event.id
    assert event.tenant
    with pytest.raises(UnreadableRecord, match="null value"):
        event_from_record(HERE, None, headers, timestamp_ms)


@given(st.none() | st.binary(max_size=50), foreign_headers, st.integers(-1, 2**41))
def test_a_foreign_record_is_read_or_is_unreadable(
    value: bytes | None, headers: list[tuple[str, bytes]], timestamp_ms: int
) -> None:
    try:
        delivery = delivery_from_record(HERE, value, headers, timestamp_ms)
    except UnreadableRecord as error:
        assert error.reason in ("null value", "no subscription-id")
        return
    assert delivery.payload == value
    assert delivery.attempt >= 1
    assert delivery.run >= 1
    again = delivery.to_record("webhooks.deliveries")
    assert delivery_from_record(HERE, again.value, again.headers, timestamp_ms) == delivery


@given(st.none() | st.binary(max_size=200))
def test_foreign_bytes_in_attempts_are_unreadable_and_nothing_worse(value: bytes | None) -> None:
    try:
        attempt_from_json(value)
    except UnreadableRecord as error:
        assert "not an attempt record" in error.reason


@given(foreign_headers)
def test_the_dead_letter_of_an_unreadable_record_keeps_bytes_and_source(headers: list[tuple[str, bytes]]) -> None:
    dead = raw_dead_letter(HERE, b"k", b"v", headers, topic="dead", reason="null value", failed_ms=1)
    ours = dict(dead.headers)
    assert (dead.key, dead.value) == (b"k", b"v")
    assert ours["source"] == b"webhooks.deliveries:3:77"
    assert ours["reason"] == b"null value"


def test_a_record_with_only_a_subscription_gets_an_id_from_its_place_in_the_log() -> None:
    headers = [("subscription-id", b"s")]
    first = delivery_from_record(HERE, b"x", headers, 1000)
    again = delivery_from_record(HERE, b"x", headers, 1000)
    other = delivery_from_record(HERE._replace(offset=78), b"x", headers, 1000)
    assert first.webhook_id == again.webhook_id != other.webhook_id
    assert first.accepted_ms == 1000


@pytest.mark.parametrize("text", [b"-1", b"0", b"1.5", b"x", b"", "\u0661".encode(), b"9" * 50])
def test_a_bad_attempt_number_is_the_first(text: bytes) -> None:
    delivery = delivery_from_record(HERE, b"x", [("subscription-id", b"s"), ("attempt", text)], 1)
    assert delivery.attempt == 1


@given(st.text(max_size=50), st.text(max_size=50), st.integers(0, 10**6))
def test_derived_ids_are_uuid5_of_our_namespace(one: str, other: str, number: int) -> None:
    """Rows and receivers know deliveries by these: whoever makes them, they never change."""
    namespace = uuid.UUID("6f6c6b6f-6f68-5f67-8000-9c3f1d5a7b21")
    assert attempt_id(one, 1, number) == str(uuid.uuid5(namespace, f"{one}/1/{number}"))
    assert delivery_id(one, other) == str(uuid.uuid5(namespace, f"{one}>{other}"))
