"""Generators of our records, outcomes and schedules."""

from __future__ import annotations

from hypothesis import strategies as st

from delivery_stream.decision import (
    Answered,
    InternalError,
    NoAnswer,
    NoSubscription,
    NotActive,
    Outcome,
    Refused,
    TooOld,
)
from shared.attempt_records import Attempt, Disabled, FannedOut, LaneState
from shared.records import Delivery, Event
from shared.topics import RetrySchedule

#: What fits a header: any text without surrogates, short enough to be ours.
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=100)
#: Times that RFC 3339 can write, from 1970 on.
times_ms = st.integers(1, 253402300799999)


def deliveries() -> st.SearchStrategy[Delivery]:
    return st.builds(
        Delivery,
        webhook_id=texts,
        subscription_id=texts,
        payload=st.binary(max_size=200),
        accepted_ms=times_ms,
        event_type=st.none() | texts,
        content_type=st.none() | texts,
        tenant=texts,
        run=st.integers(1, 1000),
        attempt=st.integers(1, 1000),
        waits=st.integers(0, 1000),
        hops=st.integers(0, 3),
        due_ms=st.none() | times_ms,
        not_before_ms=st.none() | times_ms,
        traceparent=st.none() | texts,
        event_id=st.none() | texts,
        paused_ms=st.integers(0, 10**12),
    )


def events() -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        id=texts,
        payload=st.binary(max_size=200),
        accepted_ms=times_ms,
        event_type=st.none() | texts,
        content_type=st.none() | texts,
        tenant=texts,
        hops=st.integers(0, 3),
        traceparent=st.none() | texts,
        about=st.none() | texts,
    )


def fan_outs() -> st.SearchStrategy[FannedOut]:
    return st.builds(
        FannedOut,
        kind=st.sampled_from(["fanned_out", "unmatched"]),
        webhook_id=texts,
        tenant=texts,
        event_type=st.none() | texts,
        accepted_ms=times_ms,
        fanned_out_ms=times_ms,
        matched=st.integers(0, 100_000),
        source=st.none() | texts,
    )


def lane_states() -> st.SearchStrategy[LaneState]:
    return st.builds(
        LaneState,
        kind=st.just("breaker"),
        subscription_id=texts,
        tenant=texts,
        breaker=st.sampled_from(["closed", "open", "half_open"]),
        slow=st.booleans(),
        changed_ms=times_ms,
        reason=st.none() | texts,
        until_ms=st.none() | times_ms,
        consecutive_failures=st.integers(0, 100_000),
    )


def disabled() -> st.SearchStrategy[Disabled]:
    return st.builds(
        Disabled,
        kind=st.just("disabled"),
        subscription_id=texts,
        tenant=texts,
        reason=st.sampled_from(["gone", "failing"]),
        since_ms=times_ms,
        disabled_ms=times_ms,
        event_id=texts,
    )


def attempts() -> st.SearchStrategy[Attempt]:
    return st.builds(
        Attempt,
        kind=st.sampled_from(["attempt", "waiting", "parked", "resumed", "cancelled"]),
        webhook_id=texts,
        subscription_id=texts,
        run=st.integers(1, 1000),
        attempt=st.integers(1, 1000),
        accepted_ms=times_ms,
        attempted_ms=times_ms,
        tenant=texts,
        event_type=st.none() | texts,
        target_url=st.none() | texts,
        waits=st.integers(0, 1000),
        outcome=st.none() | st.sampled_from(["succeeded", "failed_attempt", "permanently_failed"]),
        reason=st.none() | texts,
        http_status_code=st.none() | st.integers(100, 599),
        error_class=st.none() | texts,
        error_details=st.none() | texts,
        duration_ms=st.none() | st.floats(0, 1e6),
        timings_ms=st.none() | st.dictionaries(st.sampled_from(["dns", "connect"]), st.floats(0, 1e6), min_size=1),
        next_attempt_ms=st.none() | times_ms,
        source=st.none() | texts,
        event_id=st.none() | texts,
        sent_bytes=st.none() | st.integers(0, 2**31 - 1),
        received_bytes=st.none() | st.integers(0, 2**31 - 1),
        response_body=st.none() | texts,
    )


def outcomes() -> st.SearchStrategy[Outcome]:
    return st.one_of(
        st.builds(Answered, status=st.integers(100, 599), retry_after_s=st.floats(0, 86400)),
        st.builds(NoAnswer, error_class=st.sampled_from(["timeout", "connect_failed"])),
        st.builds(Refused, reason=st.just("blocked")),
        st.builds(InternalError, details=texts),
        st.builds(NotActive, status=st.sampled_from(["paused", "disabled"])),
        st.just(NoSubscription()),
        st.just(TooOld()),
    )


def schedules() -> st.SearchStrategy[RetrySchedule]:
    return st.lists(st.integers(1, 604800), max_size=8).map(lambda delays: RetrySchedule(tuple(delays)))
