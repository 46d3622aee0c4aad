"""The shell around the lanes: partitions in, one task for each request under way, offsets marked when all is acked.

Nothing here waits for one endpoint: what may not go now waits in its lane for a moment, or goes to a tier. Topics
*beside* it (events to be fanned out) have a bound of their own, and nobody waits for them: while their stores are out
of reach, deliveries go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol

from aiokafka import ConsumerRecord, TopicPartition

from delivery_stream.decision import Answered, Wait, health_of
from delivery_stream.deliver import Conclusion, Ended
from delivery_stream.intake import Astray, Unreadable, read
from delivery_stream.lanes import TICK_S, Lanes, PutOff, Verdict
from delivery_stream.offsets import Commit, Tracker
from delivery_stream.repeats import Repeats
from shared.clock import Clock
from shared.records import Delivery, Record
from shared.subscriptions import Absent, Found, Subscription
from shared.topics import home_partition

log = logging.getLogger(__name__)

#: A hand-over waits this long for what is under way; the rest may be repeated by the next owner.
REVOKE_DRAIN_S = 2.5
#: Of topics beside the main one: records under way at once, and of one partition in memory before more is read.
BESIDE_AT_ONCE = 16
#: As long as any request may take (`Subscription.timeout_seconds` goes so far), where nobody knows better.
TIMEOUT_MAX_S = 300.0
#: Beyond the slots of requests: what Kafka has still to confirm, at once.
_UNCONFIRMED_MAX = 2000
#: So long what is put off waits for more of its partition; then so many at a time, or requests would wait for them.
_TOGETHER_S = 0.1
_TOGETHER_MAX = 32
#: Records taken from Kafka into full lanes at a time: one at a time costs a turn of the loop each.
_REFILL = 32
#: Records read, admitted, or concluded without a turn of the loop: answers wait for so long, and seem late by it. A
#: take that begins beside others has its part of them.
_IN_A_ROW = 64

Commits = Callable[[Mapping[TopicPartition, Commit]], Awaitable[bool]]


class Delivers(Protocol):
    """What becomes of a delivery: ``deliver``, then ``conclude``, then ``send_soon`` or the conclusion's ``publish``.

    ``keep``, ``put_off``, ``rehome`` and ``bury`` return once Kafka has confirmed what follows.
    """

    def deliver(self, delivery: Delivery) -> Awaitable[Ended]: ...
    def conclude(self, ended: Sequence[Ended]) -> Sequence[Conclusion]: ...
    def send_soon(self, record: Record, told: Callable[[bool], None]) -> bool: ...
    def keep(self, delivery: Delivery, subscription: Subscription | None) -> Awaitable[bool]: ...
    async def put_off(self, waiting: Sequence[tuple[Delivery, Wait]]) -> None: ...
    async def rehome(self, astray: Astray) -> bool: ...
    async def bury(self, record: ConsumerRecord, reason: str) -> None: ...
    def peek(self, subscription_id: str) -> Found | Absent | None: ...
    def partitions(self) -> int: ...
    async def learn(self, subscription_ids: Iterable[str]) -> None: ...
    @property
    def timeout_s(self) -> float: ...


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
    #: Records that are sent and not confirmed, without a task.
    sent: int = 0
    #: What goes to a tier with the next ones that do.
    put_offs: list[PutOff[_Entry]] = field(default_factory=list)
    #: It goes to another owner, or we end: nothing new of it begins.
    closing: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    """A delivery on its way through its lane."""

    delivery: Delivery
    offset: int
    held: _Held
    #: One text, which the garbage collector passes over: hundreds of thousands are remembered.
    attempt_key: str
    size_bytes: int
    queued_s: float = 0.0
    timeout_s: float = TIMEOUT_MAX_S

    @classmethod
    def of(cls, delivery: Delivery, offset: int, held: _Held) -> _Entry:
        key = f"{delivery.subscription_id} {delivery.webhook_id} {delivery.run} {delivery.attempt}"
        return cls(delivery, offset, held, key, len(delivery.payload) + 1000)

    @property
    def waits(self) -> int:
        return self.delivery.waits


class Dispatcher:
    """Owns the partitions of one worker (`partition_batches.Owner`)."""

    def __init__(
        self,
        io: Delivers,
        *,
        lanes: Lanes[_Entry],
        commit: Commits,
        clock: Clock,
        watch: Watches,
        crash: Callable[[BaseException], None],
        may_start: Callable[[], bool] = lambda: True,
        beside: Mapping[str, Callable[[ConsumerRecord], Awaitable[None]]] = MappingProxyType({}),
    ) -> None:
        """``crash`` ends the process: a record that could not be handled must not be forgotten in memory.

        ``may_start``: whether the partitions are ours beyond doubt; no request starts while they may be another's.
        ``beside``: by topic, who handles its records; all others are deliveries.
        """
        self._io = io
        self._lanes = lanes
        self._repeats = Repeats()
        self._beside = beside
        self._beside_slots = asyncio.Semaphore(BESIDE_AT_ONCE)
        self._aside_slots = asyncio.Semaphore(_UNCONFIRMED_MAX)
        self._commit = commit
        self._clock = clock
        self._watch = watch
        self._crash = crash
        self._may_start = may_start
        self._held: dict[TopicPartition, _Held] = {}
        #: Of logs that were replaced by others.
        self._replaced: list[_Held] = []
        self._tasks: dict[asyncio.Task[None], _Held] = {}
        self._changed = asyncio.Event()
        #: How many wait to be put off, or for Kafka to confirm that they are.
        self._put_offs = 0
        #: Requests that are over, with what came of them.
        self._ended: list[tuple[_Entry, Ended]] = []
        #: As `_Held.sent`, of all.
        self._sent = 0
        self._refill_at = 0
        self._pumping = False
        #: Batches that are being taken, each of another partition.
        self._taking = 0
        self._committing = asyncio.Lock()
        self._draining = False
        self._progress_s = clock.monotonic_s()
        #: A member of the group: something was assigned to us, be it nothing.
        self.joined = False

    # ---- looking ----------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Records under way."""
        return sum(len(held.tasks) + held.sent for held in self._held.values()) + len(self._ended)

    @property
    def partitions(self) -> Iterable[TopicPartition]:
        """What is ours now."""
        return self._held.keys()

    @property
    def lanes(self) -> Lanes[_Entry]:
        return self._lanes

    @property
    def unfinished(self) -> int:
        """Received and not done."""
        return sum(held.tracker.unfinished for held in self._held.values())

    @property
    def progress_s(self) -> float:
        """When a record was last finished, by the monotonic clock."""
        return self._progress_s

    # ---- partitions -------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: Mapping[TopicPartition, Commit]) -> None:
        self._held = {
            partition: _Held(Tracker(commit), closing=self._draining) for partition, commit in partitions.items()
        }
        ours = {tp.partition for tp in partitions if tp.topic not in self._beside}
        count = self._io.partitions()
        self._progress_s = self._clock.monotonic_s()
        self._lanes.keep(lambda key: home_partition(key, count) in ours, self._progress_s)
        self.joined = True
        self._watch.assigned({tp: commit.next_offset for tp, commit in partitions.items()})
        log.info("partitions assigned", extra={"partitions": [tp.partition for tp in partitions]})

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        going = {tp: self._held[tp] for tp in partitions if tp in self._held}
        self._close(going.values())
        await self._wait_for(going.values(), REVOKE_DRAIN_S)
        await self.commit()
        for partition in going:
            del self._held[partition]
        self.joined = False
        self._watch.revoked(going)
        log.info("partitions revoked", extra={"partitions": [tp.partition for tp in going]})

    def start_again(self, partition: TopicPartition, commit: Commit) -> None:
        if partition in self._held:
            # What is under way goes on; it is of the log that was, and has nothing to commit in this one.
            self._replaced.append(self._held[partition])
            self._held[partition] = _Held(Tracker(commit), closing=self._draining)
            self._watch.assigned({partition: commit.next_offset})

    def has_room(self, partition: TopicPartition) -> bool:
        held = self._held.get(partition)
        if held is None or held.tracker.full:
            return False
        return partition.topic not in self._beside or len(held.tasks) < BESIDE_AT_ONCE

    def next_offset(self, partition: TopicPartition) -> int | None:
        held = self._held.get(partition)
        return None if held is None or held.closing else held.tracker.expected_offset

    async def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        held = self._held.get(partition)
        if held is None:
            return
        self._watch.received(partition, records[0].offset, records[-1].offset)
        if partition.topic in self._beside:
            self._take_beside(records, held)
            return
        self._taking += 1
        try:
            await self._take(records, held)
        finally:
            self._taking -= 1

    async def _take(self, records: Sequence[ConsumerRecord], held: _Held) -> None:
        count, in_a_row = self._io.partitions(), max(_IN_A_ROW // self._taking, 1)
        whats: list[Delivery | Astray | Unreadable] = []
        for start in range(0, len(records), in_a_row):
            if start:
                await asyncio.sleep(0)
            whats += [read(record, count) for record in records[start : start + in_a_row]]
        await self._io.learn({what.subscription_id for what in whats if isinstance(what, Delivery)})
        for number, (record, what) in enumerate(zip(records, whats, strict=True)):
            if number and number % in_a_row == 0:
                await asyncio.sleep(0)
            if held.closing:
                # Not received as far as the tracker knows: the next owner starts with it.
                return
            if not held.tracker.received(record.offset):
                continue
            if isinstance(what, Delivery):
                entry = _Entry.of(what, record.offset, held)
                if not self._admit(entry):
                    await self._enter(entry)
            else:
                await self._aside_slots.acquire()
                if held.closing:
                    self._aside_slots.release()
                    return
                self._start(self._aside(record, what, held), held)

    async def commit(self) -> bool:
        """Commit what is new; False when it did not reach the broker (it is tried again with the next)."""
        async with self._committing:
            found = {}
            for tp, held in list(self._held.items()):
                found[tp] = held.tracker, held.tracker.commit()
                await asyncio.sleep(0)  # with many unfinished, each takes a moment
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

    async def tick_regularly(self, every_s: float = TICK_S) -> None:
        """Until cancelled: what has waited long enough in its lane goes elsewhere, what may go now goes."""
        while True:
            await self._clock.sleep(every_s)
            for wait in self._lanes.tick(self._clock.monotonic_s()):
                self._put_off(wait)
            self._pump()
            self._changed.set()

    async def drain(self, within_s: float) -> int:
        """Start nothing new, wait for what is under way, commit. Gives what was left unfinished."""
        self._draining = True
        self._close([*self._held.values(), *self._replaced, *self._tasks.values()])
        await self._wait_for(self._held.values(), within_s)
        await self.commit()
        return self.in_flight

    # ---- one delivery -----------------------------------------------------------------------------------------------

    async def _enter(self, entry: _Entry) -> None:
        """Returns when it was admitted: is under way, waits in its lane, or is on its way elsewhere."""
        while not self._admit(entry):
            # What waits in the lanes is plenty: some of it may go before there is more. Every tick asks too.
            self._refill_at = max(self._lanes.waiting - _REFILL, 0)
            self._changed.clear()
            await self._changed.wait()
            if entry.held.closing:
                return

    def _admit(self, entry: _Entry) -> bool:
        """False: no room now."""
        if entry.attempt_key in self._repeats:
            self._done(entry)
            return True
        if not self._has_room():
            return False
        known = self._io.peek(entry.delivery.subscription_id)
        subscription = known.subscription if isinstance(known, Found) else None
        if known is not None and (subscription is None or subscription.status != "active"):
            # There will be no request: whatever its endpoint's lane has to wait for, this has not.
            self._start(self._keep(entry, subscription), entry.held)
            return True
        now_s = self._clock.monotonic_s()
        lane = self._lanes.lane(entry.delivery.subscription_id, now_s)
        if subscription is not None:
            self._lanes.limit(lane, subscription.rate_limit, subscription.max_in_flight, now_s)
            entry.timeout_s = subscription.timeout_seconds or self._io.timeout_s
        match self._lanes.admit(entry, lane, now_s):
            case Verdict.START:
                self._lanes.start(entry, lane, now_s)
                self._start(self._one(entry), entry.held)
            case Verdict.WAIT:
                self._put_off(self._lanes.put_off(entry, lane, now_s))
            case Verdict.FULL:
                return False
        return True

    async def _keep(self, entry: _Entry, subscription: Subscription | None) -> None:
        if await self._repeats.begin(entry.attempt_key):
            finished = False
            try:
                finished = await self._io.keep(entry.delivery, subscription)
            finally:
                self._repeats.end(entry.attempt_key, finished=finished)
        self._done(entry)

    async def _one(self, entry: _Entry) -> None:
        """Its slot is taken already; it is free again when what came of it is on record."""
        begun, ended = False, None
        try:
            begun = await self._repeats.begin(entry.attempt_key)
            if begun:
                ended = await self._io.deliver(entry.delivery)
        finally:
            if ended is None:
                self._lanes.ended(entry, "unknown", self._clock.monotonic_s())
                self._let_go(entry, begun=begun, finished=False)
        if ended is None:
            self._done(entry)
            return
        asked_s = ended.outcome.retry_after_s if isinstance(ended.outcome, Answered) else 0.0
        self._lanes.ended(entry, health_of(ended.outcome), self._clock.monotonic_s(), asked_s=asked_s)
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._conclude)
        self._ended.append((entry, ended))

    def _conclude(self) -> None:
        """What ended in one turn of the loop, together; each is done when its own records are confirmed."""
        several, self._ended = self._ended[:_IN_A_ROW], self._ended[_IN_A_ROW:]
        if self._ended:
            asyncio.get_running_loop().call_soon(self._conclude)
        try:
            self._conclude_all(several)
        except Exception as error:  # noqa: BLE001 - the loop would only log it
            self._fail(error)

    def _conclude_all(self, several: Sequence[tuple[_Entry, Ended]]) -> None:
        try:
            conclusions = self._io.conclude([ended for _, ended in several])
        except Exception as error:  # noqa: BLE001 - as above
            if len(several) > 1:
                # Whose it is shows alone: the others' requests shall not be made again.
                for one in several:
                    self._conclude_all([one])
                return
            self._let_go(several[0][0], begun=True, finished=False)
            self._fail(error)
            return
        for (entry, _), conclusion in zip(several, conclusions, strict=True):
            record = conclusion.record
            if record is not None and self._io.send_soon(record, partial(self._told, entry, conclusion)):
                entry.held.sent += 1
                self._sent += 1
            else:
                self._start(self._publish(entry, conclusion), entry.held)

    def _told(self, entry: _Entry, conclusion: Conclusion, is_confirmed: bool) -> None:
        """What Kafka says to the one record; when it does not confirm it, all that follows is published anew."""
        entry.held.sent -= 1
        self._sent -= 1
        try:
            if is_confirmed:
                conclusion.confirmed()
                self._done(entry)
                self._let_go(entry, begun=True, finished=conclusion.finished)
            else:
                self._start(self._publish(entry, conclusion), entry.held)
        except Exception as error:  # noqa: BLE001 - the loop would only log it
            self._fail(error)
        if entry.held.closing:
            self._changed.set()

    async def _publish(self, entry: _Entry, conclusion: Conclusion) -> None:
        finished = False
        try:
            await conclusion.publish()
            finished = conclusion.finished
        finally:
            self._let_go(entry, begun=True, finished=finished)
        self._done(entry)

    def _let_go(self, entry: _Entry, *, begun: bool, finished: bool) -> None:
        if begun:
            self._repeats.end(entry.attempt_key, finished=finished)
        self._lanes.confirmed()
        self._pump_soon()

    def _pump_soon(self) -> None:
        """Once for all that end in this turn of the loop."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Start what waits and may go."""
        self._pumping = False
        if not self._draining and self._has_room():
            for entry in self._lanes.startable(self._clock.monotonic_s()):
                self._start(self._one(entry), entry.held)
        if self._lanes.waiting <= self._refill_at:
            self._changed.set()

    def _put_off(self, wait: PutOff[_Entry]) -> None:
        """Soon, with others of its partition: alone it would be a batch of its own for Kafka and for all readers."""
        waits = wait.entry.held.put_offs
        if not waits:
            asyncio.get_running_loop().call_later(_TOGETHER_S, self._put_off_all, wait.entry.held)
        waits.append(wait)
        self._put_offs += 1

    def _put_off_all(self, held: _Held) -> None:
        waits, held.put_offs = held.put_offs[:_TOGETHER_MAX], held.put_offs[_TOGETHER_MAX:]
        if held.put_offs:
            asyncio.get_running_loop().call_soon(self._put_off_all, held)
        if held.closing:
            # Received and never done: the next owner starts with them.
            self._put_offs -= len(waits)
            return
        self._start(self._wait_elsewhere(waits), held)

    async def _wait_elsewhere(self, waits: Sequence[PutOff[_Entry]]) -> None:
        try:
            await self._io.put_off([(wait.entry.delivery, Wait(wait.wait_s, wait.reason)) for wait in waits])
        finally:
            self._put_offs -= len(waits)
        for wait in waits:
            self._done(wait.entry)

    async def _aside(self, record: ConsumerRecord, what: Astray | Unreadable, held: _Held) -> None:
        """A slot is taken already; it is given back."""
        try:
            match what:
                case Unreadable(reason):
                    await self._io.bury(record, reason)
                case Astray(delivery) as astray if not await self._io.rehome(astray):
                    await self._enter(_Entry.of(delivery, record.offset, held))
                    return
            self._finish(held, record.offset)
        finally:
            self._aside_slots.release()

    def _has_room(self) -> bool:
        """For one more task; and the partitions are ours beyond doubt."""
        busy = len(self._tasks) + len(self._ended) + self._sent + self._put_offs
        return busy < self._lanes.max_in_flight + _UNCONFIRMED_MAX and self._may_start()

    def _done(self, entry: _Entry) -> None:
        self._finish(entry.held, entry.offset)

    def _finish(self, held: _Held, offset: int) -> None:
        held.tracker.done(offset)
        self._progress_s = self._clock.monotonic_s()

    # ---- beside -----------------------------------------------------------------------------------------------------

    def _take_beside(self, records: Sequence[ConsumerRecord], held: _Held) -> None:
        """All of one fetch at once; each waits for its slot by itself."""
        for record in records:
            if held.tracker.received(record.offset):
                self._start(self._one_beside(record, held), held)

    async def _one_beside(self, record: ConsumerRecord, held: _Held) -> None:
        async with self._beside_slots:
            if held.closing:
                # Received and never done: the next owner starts with it.
                return
            await self._beside[record.topic](record)
            self._finish(held, record.offset)

    # ---- tasks ------------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None], held: _Held) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = held
        held.tasks.add(task)
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.error("record not handled", exc_info=error)
        self._crash(error)

    def _close(self, held: Iterable[_Held]) -> None:
        for one in held:
            one.closing = True
        self._lanes.drop(lambda entry: entry.held.closing)
        self._changed.set()

    async def _wait_for(self, held: Iterable[_Held], within_s: float) -> None:
        several, ends_s = list(held), self._clock.monotonic_s() + within_s
        while True:
            while self._ended:
                self._conclude()
            left_s = ends_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            if tasks := [task for one in several for task in one.tasks]:
                await asyncio.wait(tasks, timeout=left_s)
            elif any(one.sent for one in several):
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._changed.wait()
            else:
                return
