"""Which delivery may go now: a bound on all that is under way, repeats held back, offsets marked when all is acked.

Lanes per endpoint will stand between `take` and `_handle`. Topics *beside* it (events to be fanned out) have a bound of
their own, and nobody waits for them: while their stores are out of reach, deliveries go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from aiokafka import ConsumerRecord, TopicPartition

from delivery_stream.offsets import Commit, Tracker
from shared.clock import Clock
from shared.errors import InvariantBroken

log = logging.getLogger(__name__)

#: A hand-over waits this long for what is under way; the rest may be repeated by the next owner.
REVOKE_DRAIN_S = 2.5
#: Of topics beside the main one: records under way at once, and of one partition in memory before more is read.
BESIDE_AT_ONCE = 16

Handle = Callable[[ConsumerRecord], Awaitable[None]]
Commits = Callable[[Mapping[TopicPartition, Commit]], Awaitable[bool]]


class Watches(Protocol):
    """Who looks for records that were gone before we had them (`shared.skip_watch`)."""

    def assigned(self, committed: Mapping[TopicPartition, int | None]) -> None: ...
    def received(self, partition: TopicPartition, first_offset: int, last_offset: int) -> None: ...
    def revoked(self, partitions: Iterable[TopicPartition]) -> None: ...


@dataclass(slots=True)
class _Held:
    """A partition of ours and what is under way in it."""

    tracker: Tracker
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    revoked: bool = False


class Dispatcher:
    """Owns the partitions of one worker (`partition_batches.Owner`)."""

    def __init__(
        self,
        handle: Handle,
        *,
        max_in_flight: int,
        commit: Commits,
        clock: Clock,
        watch: Watches,
        crash: Callable[[BaseException], None],
        beside: Mapping[str, Handle] = MappingProxyType({}),
    ) -> None:
        """``crash`` ends the process: a record that could not be handled must not be forgotten in memory.

        ``beside``: by topic, who handles its records; ``handle`` those of all others.
        """
        self._handle = handle
        self._beside = beside
        self._beside_slots = asyncio.Semaphore(BESIDE_AT_ONCE)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._commit = commit
        self._clock = clock
        self._watch = watch
        self._crash = crash
        self._held: dict[TopicPartition, _Held] = {}
        self._committing = asyncio.Lock()
        self._draining = False
        #: A member of the group: something was assigned to us, be it nothing.
        self.joined = False

    @property
    def in_flight(self) -> int:
        """Records under way, those of partitions given away too."""
        return sum(len(held.tasks) for held in self._held.values())

    @property
    def partitions(self) -> Iterable[TopicPartition]:
        """What is ours now."""
        return self._held.keys()

    async def assigned(self, partitions: Mapping[TopicPartition, Commit]) -> None:
        self._held = {partition: _Held(Tracker(commit)) for partition, commit in partitions.items()}
        self.joined = True
        self._watch.assigned({tp: commit.next_offset for tp, commit in partitions.items()})
        log.info("partitions assigned", extra={"partitions": [tp.partition for tp in partitions]})

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        going = {tp: self._held[tp] for tp in partitions if tp in self._held}
        for held in going.values():
            held.revoked = True
        await self._wait_for(going.values(), REVOKE_DRAIN_S)
        await self.commit()
        for partition in going:
            del self._held[partition]
        self.joined = False
        self._watch.revoked(going)
        log.info("partitions revoked", extra={"partitions": [tp.partition for tp in going]})

    def has_room(self, partition: TopicPartition) -> bool:
        held = self._held.get(partition)
        if held is None or held.tracker.full:
            return False
        return partition.topic not in self._beside or len(held.tasks) < BESIDE_AT_ONCE

    def next_offset(self, partition: TopicPartition) -> int | None:
        held = self._held.get(partition)
        return None if held is None or held.revoked or self._draining else held.tracker.expected_offset

    async def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        held = self._held.get(partition)
        if held is None:
            raise InvariantBroken(f"records of {partition}, which is not ours")
        self._watch.received(partition, records[0].offset, records[-1].offset)
        if partition.topic in self._beside:
            self._take_beside(records, held)
            return
        for record in records:
            await self._slots.acquire()
            if held.revoked or self._draining:
                # Not received as far as the tracker knows: the next owner starts with it.
                self._slots.release()
                return
            if not held.tracker.received(record.offset):
                self._slots.release()
                continue
            self._start(self._one(record, held, self._handle, self._slots), held)

    async def commit(self) -> bool:
        """Commit what is new; False when it did not reach the broker (it is tried again with the next)."""
        async with self._committing:
            found = {tp: (held.tracker, held.tracker.commit()) for tp, held in self._held.items()}
            news = {tp: commit for tp, (_, commit) in found.items() if commit is not None}
            if not news:
                return True
            committed = await self._commit(news)
            if not committed:
                for tp in news:
                    found[tp][0].failed()
            return committed

    async def commit_regularly(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(every_s)
            await self.commit()

    async def drain(self, within_s: float) -> int:
        """Start nothing new, wait for what is under way, commit. Gives what was left unfinished."""
        self._draining = True
        await self._wait_for(self._held.values(), within_s)
        await self.commit()
        return self.in_flight

    def _take_beside(self, records: Sequence[ConsumerRecord], held: _Held) -> None:
        """All of one fetch at once; each waits for its slot by itself."""
        for record in records:
            if held.tracker.received(record.offset):
                self._start(self._one_beside(record, held), held)

    async def _one_beside(self, record: ConsumerRecord, held: _Held) -> None:
        await self._beside_slots.acquire()
        if held.revoked or self._draining:
            # Received and never done: the next owner starts with it.
            self._beside_slots.release()
            return
        await self._one(record, held, self._beside[record.topic], self._beside_slots)

    def _start(self, work: Coroutine[None, None, None], held: _Held) -> None:
        task = asyncio.create_task(work)
        held.tasks.add(task)
        task.add_done_callback(held.tasks.discard)

    async def _one(self, record: ConsumerRecord, held: _Held, handle: Handle, slots: asyncio.Semaphore) -> None:
        """A slot is taken already; it is given back."""
        try:
            await handle(record)
            held.tracker.done(record.offset)
        except Exception as error:
            log.exception("record not handled", extra={"topic": record.topic, "offset": record.offset})
            self._crash(error)
        finally:
            slots.release()

    async def _wait_for(self, held: Iterable[_Held], within_s: float) -> None:
        tasks = [task for one in held for task in one.tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
