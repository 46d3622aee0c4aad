"""Pure: what waits, when it is due, and which partition need not be fetched for now.

A tier's delay is constant and its records carry the broker's append time, so each partition is in order of its due
times by construction: a deque per partition, and one heap over their heads.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")


class Partition(NamedTuple):
    """One partition of one tier."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Held(Generic[R]):
    """A record in memory, with the time from which it may go."""

    partition: Partition
    offset: int
    due_ms: int
    size_bytes: int
    record: R


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait in memory, and how early it is fetched."""

    #: A partition with this many records in memory is full.
    records: int = 5_000
    #: Over all partitions, each has an equal share; one fetch per partition may come on top.
    total_bytes: int = 64 * 1024 * 1024
    #: A partition whose last fetched record is due later than this is not fetched: long tiers stay in the log. Far over
    #: the time a fetch takes, so a partition that is resumed has its next records before it needs them.
    ahead_ms: int = 5_000


class Changes(NamedTuple):
    """Which partitions to stop and to start fetching."""

    pause: list[Partition]
    resume: list[Partition]


def due_ms(appended_ms: int, fetched_ms: int, delay_s: int) -> int:
    """When a record may go: its append time plus its tier's delay.

    An append time we cannot believe, ahead of our clock at the fetch or absent, counts as the fetch's: then the record
    waits its full delay from the moment we saw it, late by a fetch at worst and never early. Our clock set back only
    delays, by no more than the tier's delay once again (`Due.set_back`). What shortens a wait is our clock ahead of the
    broker's at the append, or set forward since, by as much: the machines need NTP, which slews. (A monotonic clock
    would be no better: it stands still while a machine sleeps.)
    """
    believable = 0 <= appended_ms <= fetched_ms
    return (appended_ms if believable else fetched_ms) + delay_s * 1000


@dataclass(slots=True)
class _Lane(Generic[R]):
    held: deque[Held[R]] = field(default_factory=deque)
    size_bytes: int = 0
    paused: bool = False
    #: An entry in the heap of looks is under way.
    looked_for: bool = False


class Due(Generic[R]):
    """The records in memory. Nothing leaves before its time, and each partition's leave in the order they came."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lanes: dict[Partition, _Lane[R]] = {}
        self._heads: list[tuple[int, Partition]] = []
        #: When to look again at a partition that was paused for being early.
        self._looks: list[tuple[int, Partition]] = []
        self._touched: set[Partition] = set()

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Start empty with these partitions, none paused. What was held before is forgotten."""
        self._lanes = {partition: _Lane() for partition in partitions}
        self._heads.clear()
        self._looks.clear()
        self._touched.clear()

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._lanes

    def add(self, records: Sequence[Held[R]]) -> None:
        """Take fetched records, in the order of their offsets; those of a partition that is not ours are ignored."""
        for held in records:
            lane = self._lanes.get(held.partition)
            if lane is None:
                continue
            if not lane.held:
                heapq.heappush(self._heads, (held.due_ms, held.partition))
            lane.held.append(held)
            lane.size_bytes += held.size_bytes
            self._touched.add(held.partition)

    def set_back(self, now_ms: int, delay_ms: Callable[[Partition], int]) -> None:
        """Our clock went back to ``now_ms``. No record waits longer than its tier's delay from now."""
        self._heads.clear()
        self._looks.clear()
        for partition, lane in self._lanes.items():
            latest_ms = now_ms + delay_ms(partition)
            lane.held = deque(replace(held, due_ms=min(held.due_ms, latest_ms)) for held in lane.held)
            lane.looked_for = False
            self._touched.add(partition)
            if lane.held:
                heapq.heappush(self._heads, (lane.held[0].due_ms, partition))

    def take(self, now_ms: int, most: int) -> list[Held[R]]:
        """Remove and return at most ``most`` due records, some of every partition that has any."""
        partitions = self._due_partitions(now_ms)
        share = max(1, most // max(1, len(partitions)))
        taken: list[Held[R]] = []
        for partition in partitions:
            lane = self._lanes[partition]
            room = min(share, most - len(taken))
            while room and lane.held and lane.held[0].due_ms <= now_ms:
                taken.append(lane.held.popleft())
                lane.size_bytes -= taken[-1].size_bytes
                room -= 1
            self._touched.add(partition)
            if lane.held:
                heapq.heappush(self._heads, (lane.held[0].due_ms, partition))
        return taken

    def fetching(self, now_ms: int) -> Changes:
        """What changed since the last call. A partition with nothing in memory is never paused."""
        while self._looks and self._looks[0][0] <= now_ms:
            partition = heapq.heappop(self._looks)[1]
            self._lanes[partition].looked_for = False
            self._touched.add(partition)
        changes = Changes([], [])
        for partition in self._touched:
            lane = self._lanes[partition]
            early = bool(lane.held) and lane.held[-1].due_ms > now_ms + self._limits.ahead_ms
            if early and not lane.looked_for:
                lane.looked_for = True
                heapq.heappush(self._looks, (lane.held[-1].due_ms - self._limits.ahead_ms, partition))
            if lane.paused != (early or self._is_full(lane)):
                lane.paused = not lane.paused
                (changes.pause if lane.paused else changes.resume).append(partition)
        self._touched.clear()
        return changes

    def next_look_ms(self) -> int | None:
        """When something becomes due, or a partition may be fetched again; None: not before more is added."""
        firsts = [heap[0][0] for heap in (self._heads, self._looks) if heap]
        return min(firsts, default=None)

    def oldest_ms(self) -> int | None:
        """The earliest due time in memory."""
        return self._heads[0][0] if self._heads else None

    @property
    def held(self) -> int:
        return sum(len(lane.held) for lane in self._lanes.values())

    @property
    def size_bytes(self) -> int:
        return sum(lane.size_bytes for lane in self._lanes.values())

    def _due_partitions(self, now_ms: int) -> list[Partition]:
        found = []
        while self._heads and self._heads[0][0] <= now_ms:
            found.append(heapq.heappop(self._heads)[1])
        return found

    def _is_full(self, lane: _Lane[R]) -> bool:
        # Once full, a partition stays paused until half is gone: a pause drops what its fetch had brought beyond.
        part = 2 if lane.paused else 1
        share_bytes = self._limits.total_bytes // max(1, len(self._lanes))
        full = len(lane.held) * part >= self._limits.records or lane.size_bytes * part >= share_bytes
        return full and bool(lane.held)
