"""Notices records that were gone before they were read (`records_skipped`).

Retention never deletes what is not done, so a reader that goes on above its committed offset because the log starts
there is somebody's mistake: it must be loud. Holes are not: a jump counts only as far as the log's start moved with it.
`Positions` is pure; `SkipWatch` asks the broker where the log starts, and only when there is a reason to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from shared.attempt_records import Alarm
from shared.clock import Clock, SystemClock
from shared.metrics import RECORDS_SKIPPED
from shared.records import Source

log = logging.getLogger(__name__)

#: (topic, partition), as aiokafka's, Faust's or a plain tuple.
Partition = tuple[str, int]

_LOOK_S = 5.0


class Positions:
    """Where each partition's reader must go on, and which of them have to be compared with the log's start. Pure."""

    def __init__(self) -> None:
        self._next: dict[Partition, int] = {}
        self._doubts: dict[Partition, int] = {}  # partition -> the first offset that may be gone

    def assigned(self, committed: Mapping[Partition, int | None]) -> None:
        """Start from these committed offsets. None: nothing was ever committed, so nothing can be skipped."""
        for partition, next_offset in committed.items():
            self.revoked([partition])
            if next_offset is not None:
                self._next[partition] = next_offset
                self._doubts[partition] = next_offset  # with nothing left in the log, no batch would ever tell

    def revoked(self, partitions: Iterable[Partition]) -> None:
        """Another reader has them now."""
        for partition in partitions:
            self._next.pop(partition, None)
            self._doubts.pop(partition, None)

    def received(self, partition: Partition, first_offset: int, last_offset: int) -> None:
        """A batch came. An offset above the expected one is a doubt: a hole, or records that are gone.

        One that goes on where we stand ends the doubt of the assignment: what is deleted after that, was read.
        """
        expected = self._next.get(partition)
        if expected is not None and first_offset > expected:
            self._doubts.setdefault(partition, expected)
        elif self._doubts.get(partition) == expected:
            self._doubts.pop(partition, None)
        self._next[partition] = last_offset + 1

    @property
    def doubts(self) -> Mapping[Partition, int]:
        """Partitions to compare, each with the first offset that may be gone."""
        return self._doubts

    def settle(self, partition: Partition, doubted: int, log_start: int) -> tuple[int, int] | None:
        """End a doubt with the log's start. (first skipped, first there) when records are gone, else None."""
        if self._doubts.get(partition) == doubted:
            del self._doubts[partition]
        if log_start <= doubted:
            return None
        if partition in self._next:
            self._next[partition] = max(self._next[partition], log_start)
        return doubted, log_start


class LogStarts(Protocol):
    """What is needed of an AIOKafkaConsumer."""

    async def beginning_offsets(self, partitions: list[Any]) -> Mapping[Any, int]: ...


class SkipWatch:
    """One consumer's watch. Tell it of assignments and batches (cheap); when ``due``, ask it for ``alarms``."""

    def __init__(self, consumer: LogStarts, group: str, *, clock: Clock | None = None) -> None:
        self._consumer = consumer
        self._group = group
        self._clock = clock or SystemClock()
        self._positions = Positions()
        #: "" or the first alarm in one line, for readiness; it stays until the process is started again.
        self.trouble = ""

    def assigned(self, committed: Mapping[Partition, int | None]) -> None:
        """The committed (next) offset of each newly assigned partition, None where there is none."""
        self._positions.assigned(committed)

    def revoked(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that are no longer ours."""
        self._positions.revoked(partitions)

    def received(self, partition: Partition, first_offset: int, last_offset: int) -> None:
        """A batch of one partition, before it is handled."""
        self._positions.received(partition, first_offset, last_offset)

    @property
    def due(self) -> bool:
        """There is something to compare."""
        return bool(self._positions.doubts)

    async def alarms(self) -> list[Alarm]:
        """Compare what is due with the log's start; one alarm for each partition that lost records.

        While the broker does not answer (5 s at most), the comparison stays due and nothing is raised.
        """
        doubts = dict(self._positions.doubts)
        if not doubts:
            return []
        try:
            async with asyncio.timeout(_LOOK_S):
                starts = await self._consumer.beginning_offsets([TopicPartition(*partition) for partition in doubts])
        except (KafkaError, TimeoutError) as error:
            log.warning("log start unknown", extra={"group": self._group, "error": type(error).__name__})
            return []
        settled = [
            (partition, self._positions.settle(partition, doubts[partition], starts[partition])) for partition in doubts
        ]
        return [self._alarm(partition, *gap) for partition, gap in settled if gap is not None]

    def _alarm(self, partition: Partition, committed: int, position: int) -> Alarm:
        source = str(Source(partition[0], partition[1], committed))
        RECORDS_SKIPPED.inc(position - committed)
        log.error("records_skipped", extra={"group": self._group, "source": source, "position": position})
        self.trouble = (
            self.trouble or f"records_skipped: {source} to {position - 1} were gone before {self._group} read them"
        )
        return Alarm("records_skipped", self._group, source, committed, position, self._clock.now_ms())
