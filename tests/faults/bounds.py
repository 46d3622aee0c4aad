"""Pure: how many attempts a fault may repeat, from what the receiver and Kafka hold (DESIGN: what is promised).

All times are seconds since 1970.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.oracle import Arrived, Key, Logged

#: How long Kafka may take, beyond a commit interval, to confirm a record to its producer.
CONFIRMED_LATE_S = 0.25
#: A request that left a process before its end may be at the receiver a little later.
ON_THE_WIRE_S = 0.5
#: What is in `deliveries` may be as old when a worker that has just been started comes to it.
CATCHES_UP_S = 10.0


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One record of `deliveries`."""

    key: Key
    waits: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is needed to say what was under way at some time."""

    arrived: Sequence[Arrived]
    logged: Sequence[Logged]
    deliveries: Sequence[Forwarded]
    #: Of the stream's group, and of the scheduler's: for each commit, when it was not there yet.
    stream_commits_s: Sequence[float]
    scheduler_commits_s: Sequence[float]


def in_flight(traffic: Traffic, at_s: float) -> set[Key]:
    """What was at the receiver, or on its way there, and whose end was not in Kafka."""
    logged = _logged_s(traffic)
    begun = {one.key for one in traffic.arrived if one.at_s <= at_s + ON_THE_WIRE_S}
    return {key for key in begun if logged.get(key, at_s + 1) > at_s}


def _logged_s(traffic: Traffic) -> dict[Key, float]:
    """When each attempt was first in the log."""
    return {one.key: one.at_s for one in reversed(traffic.logged) if one.kind == "attempt"}


def stream_bound(traffic: Traffic, at_s: float, workers: int = 1) -> int:
    """What was in flight when a stream worker ended, and what had been finished since its last commit.

    And what is twice in `deliveries` for an earlier crash's sake: the first copy may be behind it, the other before it.
    """
    logged = _logged_s(traffic)
    since_s = _last_but_one(traffic.stream_commits_s, at_s, max(workers, 1)) - CONFIRMED_LATE_S
    finished = {key for key, ended_s in logged.items() if since_s <= ended_s <= at_s + ON_THE_WIRE_S}
    return len(
        in_flight(traffic, at_s) | finished | _copied(traffic.deliveries, since_s - CATCHES_UP_S, at_s + CATCHES_UP_S)
    )


def scheduler_bound(traffic: Traffic, at_s: float, schedulers: int = 1) -> int:
    """What the scheduler had put into `deliveries` since its last commit: it is put there again."""
    since_s = _last_but_one(traffic.scheduler_commits_s, at_s, max(schedulers, 1)) - CONFIRMED_LATE_S
    forwarded = (one for one in traffic.deliveries if one.key.attempt > 1 or one.waits)
    return len({one.key for one in forwarded if since_s <= one.at_s <= at_s + ON_THE_WIRE_S})


def _copied(deliveries: Sequence[Forwarded], from_s: float, to_s: float) -> set[Key]:
    """Attempts that a second record asked for in this time. One that was put off has one wait more: that is no copy."""
    times: defaultdict[tuple[Key, int], list[float]] = defaultdict(list)
    for one in deliveries:
        times[one.key, one.waits].append(one.at_s)
    return {key for (key, _), its in times.items() if len(its) > 1 and from_s <= max(its) <= to_s}


def _last_but_one(commits_s: Sequence[float], at_s: float, members: int) -> float:
    """The last commit that arrived was drawn up after the one before it: what was finished since is in neither.

    Of several members, who commit in turn, two each.
    """
    before = bisect_right(commits_s, at_s)
    return commits_s[before - 2 * members] if before >= 2 * members else 0.0
