"""The oracle of the fault tests, tested: whatever is planted among a thousand honest events, it finds, and names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.oracle import (
    LATE_S,
    Arrived,
    Books,
    Buried,
    Finding,
    Key,
    Logged,
    Repeat,
    Sent,
    Standing,
    Verdict,
    Window,
    attribute,
    judge,
)

EVENTS = 1000
#: What became of an event follows from its number.
DEAD, CANCELLED, RETRIED, WIDE, SILENT, PLAIN = (7, 9, 11, 13, 17, 18)
GONE = "sub-gone"


def honest() -> Books:
    """Events one second apart; each seventh fails for ever, and so on."""
    sent, arrived, logged, buried, standing = [], [], [], [], []

    def attempts(webhook_id: str, number: int, body: bytes, statuses: tuple[int, ...], last: str) -> None:
        for attempt, status in enumerate(statuses, start=1):
            at_s = number + attempt / 10
            outcome = "succeeded" if status == 200 else last if attempt == len(statuses) else "failed_attempt"
            arrived.append(Arrived(webhook_id, attempt, body, status, at_s))
            logged.append(Logged("attempt", Key(webhook_id, 1, attempt), outcome, None, at_s + 0.01))

    for n in range(EVENTS):
        body = b'{"n": %d}' % n
        if n % 20 == DEAD:
            sent.append(Sent(n, body, {f"id-{n}": "sub"}))
            attempts(f"id-{n}", n, body, (500, 500, 500), "permanently_failed")
            buried.append(Buried(f"id-{n}", "exhausted"))
            standing.append(Standing(f"id-{n}", "failed", "exhausted"))
        elif n % 20 == CANCELLED:
            sent.append(Sent(n, body, {f"id-{n}": GONE}))
            attempts(f"id-{n}", n, body, (500,), "failed_attempt")
            logged.append(Logged("cancelled", Key(f"id-{n}", 1, 2), None, "subscription deleted", n + 1.0))
            standing.append(Standing(f"id-{n}", "cancelled", "subscription deleted"))
        elif n % 20 == WIDE:
            sent.append(Sent(n, body, {f"id-{n}-{to}": f"sub-{to}" for to in "abc"}, {f"id-{n}-gone": GONE}))
            for to in "abc":
                attempts(f"id-{n}-{to}", n, body, (200,), "")
                standing.append(Standing(f"id-{n}-{to}", "succeeded", None))
        elif n % 20 == SILENT:
            sent.append(Sent(n, body, unanswered=1))
            if n % 40 == SILENT:
                attempts(f"id-{n}", n, body, (200,), "")
                standing.append(Standing(f"id-{n}", "succeeded", None))
        else:
            sent.append(Sent(n, body, {f"id-{n}": "sub"}))
            attempts(f"id-{n}", n, body, (500, 200) if n % 20 == RETRIED else (200,), "")
            standing.append(Standing(f"id-{n}", "succeeded", None))
    rows = [one.key for one in logged if one.kind == "attempt"]
    return Books(sent, arrived, logged, buried, standing, rows, frozenset({GONE}))


HONEST = honest()


def number(rest: int) -> int:
    """One of those, somewhere in the middle."""
    return 500 + rest


def named(rest: int) -> str:
    return f"id-{number(rest)}"


def without(books: Books, webhook_id: str, *parts: str) -> Books:
    """As if those parts had never heard of it."""

    def key(one: object) -> str:
        return getattr(getattr(one, "key", one), "webhook_id", "")

    kept: dict[str, Any] = {part: [one for one in getattr(books, part) if key(one) != webhook_id] for part in parts}
    return replace(books, **kept)


def standing_as(books: Books, webhook_id: str, status: str, reason: str | None = None) -> Books:
    others = [one for one in books.standing if one.webhook_id != webhook_id]
    return replace(books, standing=[*others, Standing(webhook_id, status, reason)])


def arrived_again(books: Books, webhook_id: str, at_s: float, body: bytes | None = None) -> Books:
    first = next(one for one in books.arrived if one.webhook_id == webhook_id)
    return replace(books, arrived=[*books.arrived, replace(first, at_s=at_s, body=body or first.body)])


def test_what_is_honest_has_no_findings_and_is_counted() -> None:
    verdict = judge(HONEST)
    assert verdict.findings == ()
    assert verdict.ok
    assert verdict.ended == {"succeeded": 800 + 3 * 50, "failed": 50, "cancelled": 50}
    assert (verdict.accepted, verdict.lost, verdict.repeated) == (1050, 0, 0)
    assert verdict.unanswered_delivered == 25
    assert verdict.rows == len(HONEST.rows)
    assert str(verdict).startswith("accepted 1050: 50 cancelled, 50 failed, 950 succeeded; lost 0;")


PLANTED: dict[str, tuple[Callable[[Books], Books], Finding]] = {
    "a delivery that is nowhere": (
        lambda b: without(b, named(PLAIN), "arrived", "logged", "standing", "rows"),
        Finding("lost", named(PLAIN), "no delivery of it is known"),
    ),
    "a delivery of a fan-out that was never made": (
        lambda b: without(b, f"{named(WIDE)}-b", "arrived", "logged", "standing", "rows"),
        Finding("lost", f"{named(WIDE)}-b", "no delivery of it is known"),
    ),
    "a retry that never came": (
        lambda b: standing_as(b, named(RETRIED), "retrying"),
        Finding("lost", named(RETRIED), "still retrying"),
    ),
    "a success that the receiver never saw": (
        lambda b: without(b, named(PLAIN), "arrived"),
        Finding("lost", named(PLAIN), "succeeded, and never arrived"),
    ),
    "a dead letter that is not there": (
        lambda b: without(b, named(DEAD), "buried"),
        Finding("lost", named(DEAD), "failed, and is no dead letter"),
    ),
    "a dead letter that says succeeded": (
        lambda b: replace(b, buried=[*b.buried, Buried(named(PLAIN), "exhausted")]),
        Finding("succeeded and dead-lettered", named(PLAIN)),
    ),
    "a dead letter whose row says succeeded": (
        lambda b: standing_as(b, named(DEAD), "succeeded"),
        Finding("lost", named(DEAD), "succeeded, and never arrived"),
    ),
    "a dead letter that no table knows": (
        lambda b: replace(b, buried=[*b.buried, Buried("deliveries:1:2", "null value")]),
        Finding("dead-lettered and in no table", "deliveries:1:2"),
    ),
    "a cancellation without a reason": (
        lambda b: standing_as(b, named(CANCELLED), "cancelled"),
        Finding("lost", named(CANCELLED), "cancelled, and nobody says why"),
    ),
    "a cancellation that the log does not know": (
        lambda b: replace(b, logged=[one for one in b.logged if one.key != Key(named(CANCELLED), 1, 2)]),
        Finding("lost", named(CANCELLED), "cancelled, and nobody says why"),
    ),
    "a cancellation although its subscription is there": (
        lambda b: replace(
            b,
            sent=[
                replace(one, owed={named(CANCELLED): "sub"}) if named(CANCELLED) in one.owed else one for one in b.sent
            ],
        ),
        Finding("lost", named(CANCELLED), "cancelled, and its subscription was not deleted"),
    ),
    "a missing row": (
        lambda b: without(b, named(PLAIN), "rows"),
        Finding("no row", f"{named(PLAIN)} run 1 attempt 1"),
    ),
    "a missing row of a retry": (
        lambda b: replace(b, rows=[row for row in b.rows if row != Key(named(RETRIED), 1, 2)]),
        Finding("no row", f"{named(RETRIED)} run 1 attempt 2"),
    ),
    "a doubled row": (
        lambda b: replace(b, rows=[*b.rows, Key(named(PLAIN), 1, 1)]),
        Finding("more than one row", f"{named(PLAIN)} run 1 attempt 1", "2"),
    ),
    "a doubled row of a delivery": (
        lambda b: replace(b, standing=[*b.standing, Standing(named(PLAIN), "succeeded", None)]),
        Finding("more than one row", named(PLAIN), "2"),
    ),
    "a row of an attempt that was not made": (
        lambda b: replace(b, rows=[*b.rows, Key(named(PLAIN), 1, 2)]),
        Finding("a row of no attempt", f"{named(PLAIN)} run 1 attempt 2"),
    ),
    "a request that is in no log": (
        lambda b: without(b, named(PLAIN), "logged", "rows"),
        Finding("a request the log does not know", f"{named(PLAIN)} run 1 attempt 1"),
    ),
    "an attempt that was left out": (
        lambda b: replace(
            without(b, named(RETRIED), "rows"),
            logged=[one for one in b.logged if one.key != Key(named(RETRIED), 1, 1)],
            arrived=[one for one in b.arrived if one.key != Key(named(RETRIED), 1, 1)],
            rows=[row for row in b.rows if row != Key(named(RETRIED), 1, 1)],
        ),
        Finding("attempts are missing", named(RETRIED), "[2]"),
    ),
    "a body with one byte changed": (
        lambda b: arrived_again(b, named(DEAD), number(DEAD) + 0.1, b'{"n": 507 }'),
        Finding("another body", named(DEAD), "b'{\"n\": 507 }'"),
    ),
    "the body of another event": (
        lambda b: replace(
            b,
            arrived=[replace(one, body=b'{"n": 1}') if one.webhook_id == named(PLAIN) else one for one in b.arrived],
        ),
        Finding("another body", named(PLAIN), "b'{\"n\": 1}'"),
    ),
    "a stranger": (
        lambda b: replace(b, arrived=[*b.arrived, Arrived("id-x", 1, b"?", 200, 5.0)]),
        Finding("stranger", "id-x", "b'?'"),
    ),
    "an accepted event under another id": (
        lambda b: replace(b, arrived=[*b.arrived, Arrived("id-x", 1, b'{"n": 518}', 200, 5.0)]),
        Finding("stranger", "id-x", "b'{\"n\": 518}'"),
    ),
    "an event without an answer that became two": (
        lambda b: replace(b, arrived=[*b.arrived, Arrived("id-x", 1, b'{"n": 537}', 200, 5.0)]),
        Finding("stranger", "id-x", "event 537 became 2 deliveries"),
    ),
    "a row that nobody sent": (
        lambda b: replace(b, standing=[*b.standing, *(Standing(f"x-{n:02}", "failed", "") for n in range(26))]),
        Finding("stranger", "x-25", "in the tables"),
    ),
    "one that was never accepted and never ends": (
        lambda b: replace(b, standing=[*b.standing, Standing("id-x", "queued", None)]),
        Finding("never ends", "id-x", "still queued"),
    ),
    "a repeat while nothing was wrong": (
        lambda b: arrived_again(b, named(PLAIN), 700.0),
        Finding("repeated for no reason", f"{named(PLAIN)} run 1 attempt 1", "at 700.000"),
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found_and_named(what: str) -> None:
    plant, finding = PLANTED[what]
    verdict = judge(plant(HONEST))
    assert finding in verdict.findings
    assert not verdict.ok
    assert finding.who in str(verdict)
    assert (verdict.lost > 0) == any(one.what == "lost" for one in verdict.findings)


def repeated(at_s: float, *windows: Window) -> Verdict:
    """An attempt of second 518.1 comes again."""
    return judge(arrived_again(HONEST, named(PLAIN), at_s), windows)


def test_a_repeat_is_the_fault_s_in_whose_time_it_falls() -> None:
    verdict = repeated(524.0, Window("1", 400, 410, 9), Window("2", 518, 525, 9), Window("3", 600, 610, 9))
    assert [count for _, count in verdict.repeats] == [0, 1, 0]
    assert verdict.ok


@pytest.mark.parametrize(
    ("began_s", "ended_s", "at_s"),
    [(500, 518, 520), (521, 530, 520), (518, 520, 521 + LATE_S)],
    ids=["over before the first", "begun after the second", "long over"],
)
def test_a_fault_at_another_time_explains_nothing(began_s: float, ended_s: float, at_s: float) -> None:
    verdict = repeated(at_s, Window("1", began_s, ended_s, 9))
    assert len(verdict.unexplained) == 1
    assert not verdict.ok


def test_of_two_faults_the_one_that_may_repeat_is_the_reason() -> None:
    verdict = repeated(524.0, Window("stream", 518, 520, 9), Window("redis", 521, 523))
    assert [count for _, count in verdict.repeats] == [1, 0]
    assert verdict.ok


def test_what_comes_back_late_is_not_the_fault_s_that_has_no_room_for_it() -> None:
    windows = [Window("stream", 518, 520, 2), Window("stream again", 522, 525, 1)]
    again = [Repeat(Key(f"id-{number}", 1, 1), 517.5, 524.0 + number) for number in range(4)]
    for count, counts in enumerate([[1, 0], [2, 0], [2, 1], [2, 2]], 1):
        assert [one for _, one in attribute(again[:count], windows)[0]] == counts


def test_more_repeats_than_were_under_way_are_a_finding() -> None:
    verdict = repeated(524.0, Window("redis", 518, 525))
    assert Finding("repeated more than its bound", "redis", "1 of 0") in verdict.findings
    twice = judge(
        arrived_again(arrived_again(HONEST, named(PLAIN), 523), named(PLAIN), 524), [Window("stream", 518, 525, 1)]
    )
    assert Finding("repeated more than its bound", "stream", "2 of 1") in twice.findings


def test_a_dead_letter_whose_answer_came_too_late_is_counted_and_no_error() -> None:
    late = [replace(one, status=200) if one.key == Key(named(DEAD), 1, 1) else one for one in HONEST.arrived]
    verdict = judge(replace(HONEST, arrived=late))
    assert verdict.dead_though_arrived == 1
    assert verdict.ok


def test_a_repeated_attempt_that_was_answered_in_two_ways_may_end_in_both() -> None:
    window = Window("stream", 518, 525, 9)
    both = replace(HONEST, buried=[*HONEST.buried, Buried(named(PLAIN), "exhausted")])
    verdict = judge(arrived_again(both, named(PLAIN), 524), [window])
    assert verdict.ok
    assert verdict.dead_though_arrived == 1


def test_what_was_accepted_unchecked_may_have_been_accepted_before() -> None:
    [sent] = [one for one in HONEST.sent if named(PLAIN) in one.owed]
    earlier = Arrived("id-x", 1, sent.body, 200, 5.0)
    unchecked = [replace(one, unanswered=1) if one is sent else one for one in HONEST.sent]
    logged, row = Logged("attempt", earlier.key, "succeeded", None, 5.0), Standing("id-x", "succeeded", None)
    books = replace(
        HONEST,
        arrived=[*HONEST.arrived, earlier],
        logged=[*HONEST.logged, logged],
        standing=[*HONEST.standing, row],
        rows=[*HONEST.rows, earlier.key],
    )
    assert Finding("stranger", "id-x", repr(sent.body)) in judge(books).findings
    assert judge(replace(books, sent=unchecked)).ok


def test_a_long_list_of_findings_is_shown_in_part_and_counted_whole() -> None:
    text = str(judge(replace(HONEST, rows=[])))
    assert text.count("no row: ") == 6
    assert f"no row: {len(HONEST.rows)} in all" in text
