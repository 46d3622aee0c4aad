"""The shell around the lanes: partitions in, requests out, offsets marked when all is acked.

Nothing here waits for one endpoint: what may not go now waits in its lane for a moment, or goes to a tier. Topics
*beside* it (events to be fanned out) have a bound of their own, and nobody waits for them: while their stores are out
of reach, deliveries go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Protocol

from aiokafka import ConsumerRecord, TopicPartition

from delivery_stream.beside import Beside
from delivery_stream.confirmations import Concludes, Confirmations
from delivery_stream.decision import Answered, health_of
from delivery_stream.deliver import Ended
from delivery_stream.intake import Astray, Unreadable, read
from delivery_stream.lane import Lane
from delivery_stream.lanes import TICK_S, Lanes, Verdict
from delivery_stream.offsets import Commit, Tracker
from delivery_stream.put_offs import PutOffs, PutsOff
from delivery_stream.repeats import Repeats
from delivery_stream.requests import Posts, Requests
from delivery_stream.under_way import Entry, Held, UnderWay
from shared.clock import Clock
from shared.records import Delivery
from shared.subscriptions import Absent, Found, Subscription
from shared.topics import home_partition

log = logging.getLogger(__name__)

#: A hand-over waits this long for what is under way; the rest may be repeated by the next owner.
REVOKE_DRAIN_S = 2.5
#: How often what waits is looked at for changes of its subscription: once a second.
_CHANGES_EVERY_TICKS = 20
#: Beyond the slots of requests: what Kafka has still to confirm, at once.
_UNCONFIRMED_MAX = 2000
#: Records taken from Kafka into full lanes at a time: one at a time costs a turn of the loop each.
_REFILL = 32
#: Records read or admitted without a turn of the loop: answers wait for so long, and seem late by it. A take that
#: begins beside others has its part of them.
_IN_A_ROW = 64

Commits = Callable[[Mapping[TopicPartition, Commit]], Awaitable[bool]]


class Delivers(Posts, Concludes, PutsOff, Protocol):
    """What becomes of a delivery: its request, then ``conclude``, then ``send_soon`` or the conclusion's ``publish``.

    ``keep``, ``put_off``, ``rehome`` and ``bury`` return once Kafka has confirmed what follows.
    """

    def keep(self, delivery: Delivery, subscription: Subscription | None) -> Awaitable[bool]: ...
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


class Dispatcher:
    """Owns the partitions of one worker (`fetching.Owner`)."""

    def __init__(
        self,
        io: Delivers,
        *,
        lanes: Lanes[Entry],
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
        self._under_way = UnderWay(clock, crash)
        self._beside = Beside(beside, self._under_way)
        self._confirmations = Confirmations(io, self._under_way, self._let_go)
        self._requests = Requests(io, self._under_way, self._repeats, self._over, self._failed, may_start)
        self._put_offs = PutOffs(io, self._under_way)
        self._aside_slots = asyncio.Semaphore(_UNCONFIRMED_MAX)
        self._commit = commit
        self._clock = clock
        self._watch = watch
        self._may_start = may_start
        self._held: dict[TopicPartition, Held] = {}
        #: Of logs that were replaced by others.
        self._replaced: list[Held] = []
        #: Subscriptions whose limits were not in memory, until the first of their requests has ended.
        self._unlimited: set[str] = set()
        self._refill_at = 0
        self._pumping = False
        #: Batches that are being taken, each of another partition.
        self._taking = 0
        self._committing = asyncio.Lock()
        self._draining = False
        #: A member of the group: something was assigned to us, be it nothing.
        self.joined = False

    # ---- looking ----------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Records under way."""
        return sum(len(held.tasks) + held.out for held in self._held.values()) + self._confirmations.ended

    @property
    def partitions(self) -> Iterable[TopicPartition]:
        """What is ours now."""
        return self._held.keys()

    @property
    def lanes(self) -> Lanes[Entry]:
        return self._lanes

    @property
    def unfinished(self) -> int:
        """Received and not done."""
        return sum(held.tracker.unfinished for held in self._held.values())

    @property
    def progress_s(self) -> float:
        """When a record was last finished, by the monotonic clock."""
        return self._under_way.progress_s

    # ---- partitions -------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: Mapping[TopicPartition, Commit]) -> None:
        self._held = {
            partition: Held(Tracker(commit), closing=self._draining) for partition, commit in partitions.items()
        }
        ours = {tp.partition for tp in partitions if tp.topic not in self._beside}
        count = self._io.partitions()
        self._under_way.progress_s = now_s = self._clock.monotonic_s()
        self._lanes.keep(lambda key: home_partition(key, count) in ours, now_s)
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
            self._replaced = [*(one for one in self._replaced if one.tracker.unfinished), self._held[partition]]
            self._held[partition] = Held(Tracker(commit), closing=self._draining)
            self._watch.assigned({partition: commit.next_offset})

    def has_room(self, partition: TopicPartition) -> bool:
        held = self._held.get(partition)
        if held is None or held.tracker.full:
            return False
        return partition.topic not in self._beside or self._beside.has_room(held)

    def next_offset(self, partition: TopicPartition) -> int | None:
        held = self._held.get(partition)
        return None if held is None or held.closing else held.tracker.expected_offset

    async def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        held = self._held.get(partition)
        if held is None:
            return
        self._watch.received(partition, records[0].offset, records[-1].offset)
        if partition.topic in self._beside:
            self._beside.take(records, held)
            return
        self._taking += 1
        try:
            await self._take(records, held)
        finally:
            self._taking -= 1

    async def _take(self, records: Sequence[ConsumerRecord], held: Held) -> None:
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
                entry = Entry.of(what, record.offset, held)
                if not self._admit(entry):
                    await self._enter(entry)
            else:
                await self._aside_slots.acquire()
                if held.closing:
                    self._aside_slots.release()
                    return
                self._under_way.start(self._aside(record, what, held), held)

    async def commit(self) -> bool:
        """Commit what is new; False when it did not reach the broker (it is tried again with the next)."""
        async with self._committing:
            found = {}
            for tp, held in list(self._held.items()):
                if (commit := held.tracker.commit()) is not None:
                    found[tp] = held, commit
                    await asyncio.sleep(0)  # with many unfinished, each takes a moment
            # Not what belongs to a log that was replaced in such a moment.
            news = {tp: commit for tp, (held, commit) in found.items() if self._held.get(tp) is held}
            if not news:
                return True
            committed = await self._commit(news)
            if not committed:
                for held, _ in found.values():
                    held.tracker.failed()
            return committed

    async def commit_regularly(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(every_s)
            await self.commit()

    async def tick_regularly(self, every_s: float = TICK_S) -> None:
        """Until cancelled: what has waited long enough in its lane goes elsewhere, what may go now goes."""
        for number in count():
            await self._clock.sleep(every_s)
            if number % _CHANGES_EVERY_TICKS == 0:
                self._obey_changes()
            for wait in self._lanes.tick(self._clock.monotonic_s()):
                self._put_offs.add(wait)
            self._pump()
            self._under_way.changed.set()

    async def drain(self, within_s: float) -> int:
        """Start nothing new, wait for what is under way, commit. Gives what was left unfinished.

        Whatever comes of that later is not heard any more: its next owner sends it again.
        """
        self._draining = True
        self._close([*self._held.values(), *self._replaced, *self._under_way.held])
        await self._wait_for(self._held.values(), within_s)
        left = self.in_flight
        self._under_way.leave()
        await self.commit()
        return left

    # ---- one delivery -----------------------------------------------------------------------------------------------

    async def _enter(self, entry: Entry) -> None:
        """Returns when it was admitted: is under way, waits in its lane, or is on its way elsewhere."""
        while not self._admit(entry):
            # What waits in the lanes is plenty: some of it may go before there is more. Every tick asks too.
            self._refill_at = max(self._lanes.waiting - _REFILL, 0)
            self._under_way.changed.clear()
            await self._under_way.changed.wait()
            if entry.held.closing:
                return

    def _admit(self, entry: Entry) -> bool:
        """False: no room now."""
        if entry.attempt_key in self._repeats:
            self._under_way.done(entry)
            return True
        if not self._has_room():
            return False
        known = self._io.peek(entry.delivery.subscription_id)
        subscription = known.subscription if isinstance(known, Found) else None
        if known is not None and (subscription is None or subscription.status != "active"):
            # There will be no request: whatever its endpoint's lane has to wait for, this has not.
            self._under_way.start(self._keep(entry, subscription), entry.held)
            return True
        now_s = self._clock.monotonic_s()
        lane = self._lanes.lane(entry.delivery.subscription_id, now_s)
        if subscription is not None:
            if subscription is not lane.subscription:
                self._obey(subscription, lane, now_s)
            entry.timeout_s = subscription.timeout_seconds or self._io.timeout_s
        elif not lane.limited:
            lane.limit_unknown()
            self._unlimited.add(lane.key)
        match self._lanes.admit(entry, lane, now_s):
            case Verdict.START:
                self._lanes.start(entry, lane, now_s)
                self._requests.add(entry)
            case Verdict.WAIT:
                self._put_offs.add(self._lanes.put_off(entry, lane, now_s))
            case Verdict.FULL:
                return False
        return True

    def _obey(self, subscription: Subscription, lane: Lane[Entry], now_s: float) -> None:
        """Its URL and its limits, which are what they were while it is the same object."""
        lane.subscription = subscription
        self._lanes.aim(lane, subscription.target_url, now_s)
        self._lanes.limit(lane, subscription.rate_limit, subscription.max_in_flight, now_s)

    def _obey_changes(self) -> None:
        """Of subscriptions for which something waits: they may have changed since it came."""
        now_s = self._clock.monotonic_s()
        for lane in self._lanes.queued:
            known = self._io.peek(lane.key)
            if isinstance(known, Found) and known.subscription is not lane.subscription:
                self._obey(known.subscription, lane, now_s)

    async def _keep(self, entry: Entry, subscription: Subscription | None) -> None:
        if await self._repeats.begin(entry.attempt_key):
            finished = False
            try:
                finished = await self._io.keep(entry.delivery, subscription)
            finally:
                self._repeats.end(entry.attempt_key, finished=finished)
        self._under_way.done(entry)

    def _over(self, entry: Entry, ended: Ended) -> None:
        """Its slot is free when what came of it is on record."""
        asked_s = ended.outcome.retry_after_s if isinstance(ended.outcome, Answered) else 0.0
        now_s = self._clock.monotonic_s()
        if self._unlimited and (key := entry.delivery.subscription_id) in self._unlimited:
            self._unlimited.discard(key)
            if ended.subscription is not None:
                self._obey(ended.subscription, self._lanes.lane(key, now_s), now_s)
        self._lanes.ended(entry, health_of(ended.outcome), now_s, asked_s=asked_s)
        self._confirmations.add(entry, ended)

    def _failed(self, entry: Entry) -> None:
        """Nothing is known of its endpoint by it, and its slot is free."""
        self._lanes.ended(entry, "unknown", self._clock.monotonic_s())
        self._free_slot()

    def _let_go(self, entry: Entry, finished: bool) -> None:
        self._repeats.end(entry.attempt_key, finished=finished)
        self._free_slot()

    def _free_slot(self) -> None:
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
                self._requests.add(entry)
        if self._lanes.waiting <= self._refill_at:
            self._under_way.changed.set()

    async def _aside(self, record: ConsumerRecord, what: Astray | Unreadable, held: Held) -> None:
        """A slot is taken already; it is given back."""
        try:
            match what:
                case Unreadable(reason):
                    await self._io.bury(record, reason)
                case Astray(delivery) as astray if not await self._io.rehome(astray):
                    await self._enter(Entry.of(delivery, record.offset, held))
                    return
            self._under_way.finish(held, record.offset)
        finally:
            self._aside_slots.release()

    def _has_room(self) -> bool:
        """For one more; and the partitions are ours beyond doubt."""
        unconfirmed = self._confirmations.ended + self._confirmations.sent + len(self._put_offs)
        busy = self._under_way.tasks + self._requests.out + unconfirmed
        return busy < self._lanes.max_in_flight + _UNCONFIRMED_MAX and self._may_start()

    # ---- the end of it -----------------------------------------------------------------------------------------------

    def _close(self, held: Iterable[Held]) -> None:
        for one in held:
            one.closing = True
        self._lanes.drop(lambda entry: entry.held.closing)
        self._under_way.changed.set()

    async def _wait_for(self, held: Iterable[Held], within_s: float) -> None:
        several, ends_s = list(held), self._clock.monotonic_s() + within_s
        while not self._under_way.left:
            self._confirmations.conclude_all()
            left_s = ends_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            if tasks := [task for one in several for task in one.tasks]:
                await asyncio.wait(tasks, timeout=left_s)
            elif any(one.out for one in several):
                self._under_way.changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._under_way.changed.wait()
            else:
                return
