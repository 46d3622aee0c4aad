"""Pure: the arithmetic of a replay job: how many records may go now, which they are, and when to go on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from retry_scheduler.next_hop import Tiered
from shared.parking import Span
from shared.subscription import canonical_id

#: Published in one step; a job takes its next one when the stream has finished these. It begins with few and takes as
#: many as its endpoint was seen to take in a second, so that they wait in its lane and not, out of order, in the tiers.
FIRST_RECORDS = 8
LEAST_RECORDS = 4
STEP_RECORDS = 500
_GROWTH = 2
#: Records in a partition of `deliveries` that the stream has yet to finish: beyond it replays wait, and what comes in
#: afresh goes first.
UNFINISHED_MOST = 1_000
#: Between two steps of a job that may not go on at once: the stream commits four times a second.
STEP_EVERY = timedelta(seconds=0.25)
#: What is known of the stream is never older than this.
_LOOKED_LATELY = timedelta(seconds=10)
#: A job that was late makes up for this much of its rate at once.
_BURST_S = 1.0


@dataclass(frozen=True, slots=True)
class Cursor:
    """A range of one partition, and how far it is done."""

    partition: int
    from_offset: int
    next_offset: int
    to_offset: int


@dataclass(frozen=True, slots=True)
class Job:
    """One step's view of a job. Times are Postgres' own."""

    id: str
    kind: str
    topic: str
    tenant: str
    subscription_id: str
    #: The first range that is not done; None: all are.
    cursor: Cursor | None
    now: datetime
    #: Records a second; None: as many as its endpoint takes.
    rate: float | None
    #: Its subscription is gone: what is published is cancelled by the stream.
    deleted: bool
    paced_to: datetime | None = None
    #: The last step that published anything: when, how much, and where its last record stands in `deliveries`.
    stepped_at: datetime | None = None
    last_records: int = 0
    last_partition: int | None = None
    last_offset: int | None = None

    @property
    def allowance(self) -> int:
        """How many records may go now, once those of the last step are done."""
        if self.rate is None:
            return self._as_its_endpoint_takes()
        due = (self.now - self._paced_from(self.rate)).total_seconds() * self.rate
        return min(STEP_RECORDS, math.floor(due + 1e-6))

    def paced_after(self, published: int) -> datetime | None:
        """Up to when the rate is used up, once so many were published."""
        if self.rate is None:
            return None
        return self._paced_from(self.rate) + timedelta(seconds=published / self.rate)

    def next_step_after(self, published: int) -> timedelta:
        """How long nothing can go."""
        paced_to = self.paced_after(published)
        if self.rate is None or paced_to is None:
            return timedelta(0) if published else STEP_EVERY
        return max(STEP_EVERY, paced_to + timedelta(seconds=1 / self.rate) - self.now)

    def _as_its_endpoint_takes(self) -> int:
        if self.stepped_at is None or not self.last_records:
            return FIRST_RECORDS
        took_s = max((self.now - self.stepped_at).total_seconds(), 0.001)
        in_a_second = min(STEP_RECORDS, math.ceil(self.last_records / took_s))
        return max(LEAST_RECORDS, min(in_a_second, _GROWTH * self.last_records))

    def _paced_from(self, rate: float) -> datetime:
        one = timedelta(seconds=1 / rate)
        return max(self.paced_to or self.now - one, self.now - max(one, timedelta(seconds=_BURST_S)))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the delivery stream is in one partition of `deliveries`."""

    next_offset: int
    completed: frozenset[int]
    end_offset: int

    @property
    def unfinished(self) -> int:
        return self.end_offset - self.next_offset - len(self.completed)

    def has_room(self, job: Job, partition: int) -> bool:
        """Whether ``job`` may publish to ``partition``, this one: its last record is done, and so are most others."""
        if self.unfinished > UNFINISHED_MOST:
            return False
        if job.last_offset is None or job.last_partition != partition:
            return True
        if job.last_offset < self.next_offset or job.last_offset in self.completed:
            return True
        # An offset that is still not there after a while was given by a log that is gone.
        is_old = job.stepped_at is None or job.now - job.stepped_at > _LOOKED_LATELY
        return job.last_offset >= self.end_offset and is_old


class Sorted(NamedTuple):
    """Records of `parked`: whose each of them is, and the spans of each subscription."""

    #: In the order of the records; None: it cannot be read, or names what can be no subscription.
    owners: list[str | None]
    spans: dict[str, list[Span]]


def sort_parked(records: Iterable[Tiered]) -> Sorted:
    """In each partition the records are in order."""
    found: dict[tuple[str, int], Span] = {}
    owners = []
    for tiered in records:
        owner = subscription_of(tiered)
        owners.append(owner)
        if owner is None:
            continue
        partition, offset = tiered.source.partition, tiered.source.offset
        before = found.get((owner, partition), Span(partition, offset, offset, 0))
        found[owner, partition] = before._replace(to_offset=offset + 1, records=before.records + 1)
    spans: dict[str, list[Span]] = {}
    for (owner, _), span in found.items():
        spans.setdefault(owner, []).append(span)
    return Sorted(owners, spans)


def subscription_of(tiered: Tiered) -> str | None:
    """Whose record it is, in the usual form; None when it cannot be read, or names what can be no subscription.

    A job looks at everybody's records to find its own: nothing else of them is read here.
    """
    if tiered.value is None:
        return None
    named = (value for name, value in reversed(tiered.headers) if name == "subscription-id")
    return canonical_id((next(named, None) or b"").decode("latin-1"))
