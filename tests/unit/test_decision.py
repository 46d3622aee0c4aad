"""What follows an attempt, by example."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from delivery_stream.decision import (
    Answered,
    Cancelled,
    DeadLetter,
    Decision,
    Delivered,
    InternalError,
    NoAnswer,
    NoSubscription,
    NotActive,
    Outcome,
    Park,
    Refused,
    RetryIn,
    StoresUnreachable,
    TooOld,
    decide,
    health_of,
    retry_after_s,
)
from delivery_stream.lane import Health
from shared.topics import RetrySchedule

SCHEDULE = RetrySchedule((10, 40))


@pytest.mark.parametrize(
    ("outcome", "attempt", "decision"),
    [
        (Answered(200), 1, Delivered()),
        (Answered(299), 3, Delivered()),
        (Answered(301), 1, RetryIn(10)),
        (Answered(404), 1, RetryIn(10)),
        (Answered(500), 2, RetryIn(40)),
        (Answered(500), 3, DeadLetter("exhausted")),
        (Answered(410), 1, DeadLetter("gone")),
        (Answered(503, retry_after_s=20), 1, RetryIn(40, 20)),
        (Answered(503, retry_after_s=5000), 1, RetryIn(40, 5000)),
        (Answered(503, retry_after_s=20), 3, DeadLetter("exhausted")),
        (NoAnswer("timeout"), 1, RetryIn(10)),
        (InternalError("KeyError"), 1, RetryIn(10)),
        (Refused("blocked"), 1, DeadLetter("blocked")),
        (NoSubscription(), 1, Cancelled("subscription deleted")),
        (NotActive("paused"), 1, Park()),
        (TooOld(), 1, DeadLetter("expired")),
    ],
)
def test_decide(outcome: Outcome, attempt: int, decision: Decision) -> None:
    assert decide(outcome, attempt, SCHEDULE) == decision


@pytest.mark.parametrize(
    ("outcome", "health"),
    [
        (Answered(200), "works"),
        (Answered(301), "works"),
        (Answered(404), "works"),
        (Answered(410), "works"),
        (Answered(428), "works"),
        (Answered(429), "throttles"),
        (Answered(499), "works"),
        (Answered(500), "fails"),
        (Answered(502), "fails"),
        (Answered(503), "throttles"),
        (Answered(504), "fails"),
        (Answered(599), "fails"),
        (NoAnswer("timeout"), "times_out"),
        (NoAnswer("connect_timeout"), "times_out"),
        (NoAnswer("connection_reset"), "fails"),
        (NoAnswer("dns_failed"), "fails"),
        (Refused("blocked"), "unknown"),
        (NoSubscription(), "unknown"),
        (NotActive("paused"), "unknown"),
        (TooOld(), "unknown"),
        (StoresUnreachable(), "unknown"),
        (InternalError("KeyError"), "unknown"),
    ],
)
def test_who_asks_for_less_or_does_not_answer_in_time_is_told_from_who_fails_and_a_refusal_from_all_these(
    outcome: Outcome, health: Health
) -> None:
    assert health_of(outcome) == health


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("-5", 0),
        ("1.5", 0),
        ("00000000000120", 120),
        ("0" * 20, 0),
        ("0" * 60_000 + "7", 7),
        ("86401", 86400),
        ("99999999999999999999", 86400),
        ("0" * 20 + "9" * 20, 86400),
        ("9" * 60_000, 86400),
        ("²", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
        ("Wed, 21 Oct 2015 07:26:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 86400),
        ("soon", 0),
        ("10, 20", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_retry_after_is_read_in_both_forms_and_garbage_is_nothing(text: str | None, wait_s: float) -> None:
    at_0727_ms = 1445412420_000
    assert retry_after_s(text, at_0727_ms) == wait_s


@pytest.fixture(params=["UTC0", "JST-9", "EST5EDT"])
def _zone_of_ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as environment:
        environment.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_zone_of_ours")
@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
        ("Wednesday, 21-Oct-15 07:28:00 GMT", 60),
        ("Wed Oct 21 07:28:00 2015", 60),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 60),
        ("Wed, 21 Oct 2015 07:28:00", 60),
        ("Wed, 21 Oct 2015 09:28:00 +0200", 60),
        ("Wed Oct 21 07:26:00 2015", 0),
    ],
)
def test_a_date_in_any_of_its_forms_is_utc_wherever_we_are(text: str, wait_s: float) -> None:
    at_0727_ms = 1445412420_000
    assert retry_after_s(text, at_0727_ms) == wait_s
