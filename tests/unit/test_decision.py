"""What follows an attempt, by example."""

from __future__ import annotations

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
    TooOld,
    decide,
    retry_after_s,
)
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
    ("text", "wait_s"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("-5", 0),
        ("1.5", 0),
        ("99999999999999999999", 86400),
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
