"""A replay job's arithmetic, by example."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retry_scheduler.next_hop import Tiered
from retry_scheduler.replay_job import (
    FIRST_RECORDS,
    LEAST_RECORDS,
    STEP_EVERY,
    STEP_RECORDS,
    UNFINISHED_MOST,
    Cursor,
    Job,
    Progress,
    sort_parked,
)
from shared.parking import Span
from shared.records import Delivery, Source

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE, OTHER = "0193c6f0-0000-7000-8000-000000000001", "0193c6f0-0000-7000-8000-000000000002"


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "0193c6f0-0000-7000-8000-0000000000aa",
        "kind": "resume",
        "topic": "w.parked",
        "tenant": "default",
        "subscription_id": ONE,
        "cursor": Cursor(0, 10, 10, 20),
        "now": NOW,
        "rate": None,
        "deleted": False,
    }
    return Job(**(values | changes))


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize(
    ("last_records", "took_s", "allowance"),
    [
        (0, None, FIRST_RECORDS),
        (8, 0.3, 16),  # twice as many, and no more
        (400, 0.5, STEP_RECORDS),
        (40, 2, 20),  # what it takes in a second
        (40, 30, LEAST_RECORDS),  # it is slow, or the scheduler was away
        (1, 0.1, LEAST_RECORDS),
    ],
)
def test_without_a_rate_it_goes_as_fast_as_its_endpoint(
    last_records: int, took_s: float | None, allowance: int
) -> None:
    stepped_at = None if took_s is None else NOW - seconds(took_s)
    assert job(last_records=last_records, stepped_at=stepped_at).allowance == allowance


def test_without_a_rate_the_next_step_follows_at_once() -> None:
    assert job().next_step_after(STEP_RECORDS) == seconds(0)
    assert job().next_step_after(0) == STEP_EVERY, "nothing went: the stream is not ready, or none was wanted"
    assert job().paced_after(7) is None


@pytest.mark.parametrize(
    ("rate", "idle_s", "allowance"),
    [
        (10, None, 1),  # the first step
        (10, 0.05, 0),
        (10, 0.1, 1),
        (10, 0.35, 3),
        (10, 1000, 10),  # what was missed is made up for one second
        (0.1, 5, 0),
        (0.1, 10, 1),
        (0.1, 1000, 1),
        (10_000, 1, STEP_RECORDS),
    ],
)
def test_a_rate_allows_what_has_become_due(rate: float, idle_s: float | None, allowance: int) -> None:
    paced_to = None if idle_s is None else NOW - seconds(idle_s)
    assert job(rate=rate, paced_to=paced_to).allowance == allowance


def test_what_was_published_uses_the_rate_up_and_the_rest_of_the_credit_stays() -> None:
    going = job(rate=10, paced_to=NOW - seconds(0.35))
    assert going.paced_after(3) == NOW - seconds(0.05)
    assert going.next_step_after(3) == STEP_EVERY
    assert job(rate=0.5, paced_to=NOW - seconds(2)).next_step_after(1) == seconds(2)
    assert job(rate=0.5, paced_to=NOW - seconds(0.5)).next_step_after(0) == seconds(1.5)


@pytest.mark.parametrize(
    ("last_offset", "progress", "room"),
    [
        (None, Progress(0, frozenset(), UNFINISHED_MOST), True),
        (None, Progress(0, frozenset(), UNFINISHED_MOST + 1), False),
        (None, Progress(0, frozenset(range(1, 9_000)), 9_100), True),  # a stuck head holds the watermark, not us
        (49, Progress(50, frozenset(), 60), True),
        (50, Progress(50, frozenset(), 60), False),
        (55, Progress(50, frozenset({54}), 60), False),
        (55, Progress(50, frozenset({55}), 60), True),
        (70, Progress(50, frozenset(), 60), False),  # published after the look at the end of the log
    ],
)
def test_the_next_step_waits_for_the_stream(last_offset: int | None, progress: Progress, room: bool) -> None:
    assert progress.has_room(job(last_partition=2, last_offset=last_offset, stepped_at=NOW), 2) is room


def test_a_log_that_was_made_anew_does_not_hold_a_job_for_ever() -> None:
    last = {"last_partition": 2, "last_offset": 7_000}
    anew = Progress(0, frozenset(), 3)
    assert not anew.has_room(job(**last, stepped_at=NOW - seconds(1)), 2)
    assert anew.has_room(job(**last, stepped_at=NOW - seconds(11)), 2)


def test_what_stands_in_another_partition_holds_nothing_up() -> None:
    """Partitions were added: the subscription has another home now."""
    assert Progress(50, frozenset(), 60).has_room(job(last_partition=1, last_offset=55, stepped_at=NOW), 2)


def parked(offset: int, owner: str, partition: int = 0) -> Tiered:
    record = Delivery("id", owner, b"x", 5).to_record("w.parked")
    return Tiered(Source("w.parked", partition, offset), record.key, record.value, record.headers, 5)


def test_parked_records_are_noted_by_subscription_and_partition() -> None:
    unreadable = Tiered(Source("w.parked", 0, 3), None, None, [], 5)
    records = [parked(1, ONE), parked(2, OTHER), unreadable, parked(7, ONE), parked(4, ONE, 1), parked(8, "x")]
    found = sort_parked(records)
    assert found.owners == [ONE, OTHER, None, ONE, ONE, None]
    assert found.spans == {ONE: [Span(0, 1, 8, 2), Span(1, 4, 5, 1)], OTHER: [Span(0, 2, 3, 1)]}


def test_one_subscription_in_two_spellings_is_one() -> None:
    assert sort_parked([parked(1, ONE.upper()), parked(2, ONE)]).spans == {ONE: [Span(0, 1, 3, 2)]}
