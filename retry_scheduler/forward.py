"""The shell around `due`: fetch the tiers, hold what is early, publish what is due, commit what Kafka has confirmed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from retry_scheduler.condition import Condition
from retry_scheduler.due import Due, Held, Limits, Partition, due_ms
from retry_scheduler.next_hop import Hops, Tiered
from retry_scheduler.publish import Publisher, publish
from shared.clock import Clock, SystemClock
from shared.commits import Commits
from shared.errors import InvariantBroken, NotConfirmed
from shared.kafka import SkipWatch, leave, max_record_bytes, new_consumer
from shared.metrics import FORWARDED
from shared.settings import Settings

log = logging.getLogger(__name__)

_BATCH_RECORDS = 500
_FETCH_RECORDS = 1_000
_FETCH_WAIT_MS = 60_000
_SETTLE_S = 3.0
_PROBE_EVERY_S = 5.0
_RETRY_AFTER_S = 1.0
_COMMIT_EVERY_S = 0.5
#: Between two batches that are not full: what becomes due one by one goes together.
_PACE_S = 0.1
_SKIPS_EVERY_S = 1.0
#: The wall clock may be set while we sleep: look again after this long.
_LONGEST_SLEEP_S = 5.0

#: What we need of a consumer beyond the house's own options.
_CONSUMER = {
    # One fetch at a time is under way per broker: a partition that is resumed waits for it to end.
    "fetch_max_wait_ms": 100,
    # No tier is shorter than 1 s: what trickles in may come together.
    "fetch_min_bytes": 64 * 1024,
    "fetch_max_bytes": 4 * 1024 * 1024,
    # The least a partition may hold in memory. A record larger than this is still fetched, alone. Four times as much
    # forwarded a backlog no faster.
    "max_partition_fetch_bytes": 64 * 1024,
    # A new tier is found within this.
    "metadata_max_age_ms": 10_000,
}


class Connected(Publisher, Protocol):
    """What forwarding needs of the producer."""

    async def check(self, timeout_s: float, needed: Collection[str] = ()) -> str: ...

    @property
    def trouble(self) -> str: ...


class Forwarder(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """All tiers of one installation; several forwarders share the partitions as a consumer group.

    A record is committed after its next hop is confirmed: a crash repeats what was forwarded since the last commit, and
    loses nothing. All of one batch is in flight together and batches follow one another, so per partition the positions
    only grow and a revoke has one thing to wait for.
    """

    def __init__(
        self,
        settings: Settings,
        producer: Connected,
        *,
        clock: Clock | None = None,
        limits: Limits | None = None,
        **consumer_options: Any,
    ) -> None:
        self._settings = settings
        self._producer = producer
        self._clock = clock or SystemClock()
        self._consumer_options = {**_CONSUMER, **consumer_options}
        self._hops = Hops(settings.topics, settings.schedule, lambda topic: max_record_bytes(topic, settings))
        self._group = settings.topics.group("retry-scheduler")
        self._due: Due[Tiered] = Due(limits or Limits())
        self._condition = Condition(self._clock)
        self._sending = asyncio.Lock()
        self._wake = asyncio.Event()
        self._in_flight_due_ms: int | None = None
        self._latest_ms = 0
        self._consumer: AIOKafkaConsumer
        self._skips: SkipWatch
        self._commits = Commits()
        self._moved = asyncio.Event()
        self.forwarded = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until ``stop`` is set, then commit and leave the group. Kafka out of reach: waits and tries again."""
        while not stop.is_set():
            try:
                await self._membership(stop)
            except (KafkaError, NotConfirmed) as error:
                trouble = f"{type(error).__name__}: {error}"
                self._condition.broker(trouble)
                log.warning("membership_lost", extra={"error": trouble})
                await _wait(stop, _RETRY_AFTER_S)

    def live(self) -> Mapping[str, str]:
        """Empty, or why the process should be started again."""
        oldest = [at for at in (self._in_flight_due_ms, self._due.oldest_ms()) if at is not None]
        return {} if self._producer.trouble else self._condition.live(min(oldest, default=None))

    def ready(self) -> Mapping[str, str]:
        """Empty, or what is missing."""
        return self._condition.ready(self._producer.trouble)

    # -- one membership: from joining the group to leaving it

    def _join(self) -> None:
        self._consumer = new_consumer(
            self._settings,
            group=self._group,
            pattern=self._settings.topics.tier_pattern,
            listener=self,
            **self._consumer_options,
        )
        self._skips = SkipWatch(self._consumer, self._group, clock=self._clock)

    async def _membership(self, stop: asyncio.Event) -> None:
        self._join()
        work: list[asyncio.Task[Any]] = []
        try:
            await self._consumer.start()
            parts = (self._fetch(), self._forward(), self._commit(), self._probe(), self._watch_skips(), stop.wait())
            work = [asyncio.ensure_future(part) for part in parts]
            ended, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            await self._settle()
            for task in ended:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await leave(self._consumer, _SETTLE_S)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._settle()
        self._skips.revoked(revoked)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._due.assign(Partition(*tp) for tp in assigned)
        self._condition.assigned = True
        log.info("assigned", extra={"partitions": len(assigned)})
        try:
            async with asyncio.timeout(_SETTLE_S):
                committed = await asyncio.gather(*map(self._consumer.committed, assigned))
        except (KafkaError, TimeoutError) as error:
            log.warning("committed_unknown", extra={"error": f"{type(error).__name__}: {error}"})
        else:
            self._skips.assigned(dict(zip(assigned, committed, strict=True)))

    async def _settle(self) -> None:
        """Wait a bounded time for what is in flight, commit, and forget the rest: its next owner reads it again."""
        self._condition.assigned = False
        self._due.assign(())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S), self._sending:
                pass
        commits, self._commits = self._commits, Commits()
        await commits.commit(self._consumer)

    # -- in

    async def _fetch(self) -> None:
        """A fetch is always pending, paused partitions or not: that is what keeps the membership."""
        while True:
            fetched = await self._consumer.getmany(timeout_ms=_FETCH_WAIT_MS, max_records=_FETCH_RECORDS)
            now_ms = self._now_ms()
            for tp, records in fetched.items():
                self._take_in(tp, records, now_ms)
            self._apply_pauses(now_ms)
            self._wake.set()
            # With records in its buffer getmany returns without giving way.
            await asyncio.sleep(0)

    def _take_in(self, tp: TopicPartition, records: Sequence[ConsumerRecord], now_ms: int) -> None:
        if Partition(*tp) in self._due:
            self._skips.received(tp, records[0].offset, records[-1].offset)
            self._due.add([self._held(record, now_ms) for record in records])
        elif tp in self._consumer.assignment():
            # Fetched before we were told that it is ours: to be fetched again, or it would be skipped.
            self._consumer.seek(tp, records[0].offset)

    def _held(self, record: ConsumerRecord, now_ms: int) -> Held[Tiered]:
        partition = Partition(record.topic, record.partition)
        delay_s = self._settings.topics.delay_s(record.topic)
        if delay_s is None:
            raise InvariantBroken(f"{record.topic} matched the pattern of the tiers and is none")
        tiered = Tiered.of(record)
        due_at_ms = due_ms(record.timestamp, now_ms, delay_s)
        return Held(partition, record.offset, due_at_ms, tiered.size_bytes, tiered)

    def _apply_pauses(self, now_ms: int) -> None:
        changes = self._due.fetching(now_ms)
        # A tier that appears replaces the subscription before we are told of the revoke.
        assigned = self._consumer.assignment()
        self._consumer.pause(*(TopicPartition(*p) for p in changes.pause if p in assigned))
        self._consumer.resume(*(TopicPartition(*p) for p in changes.resume if p in assigned))

    # -- out

    async def _forward(self) -> None:
        while True:
            self._wake.clear()
            forwarded = await self._forward_due()
            if not forwarded:
                await _wait(self._wake, self._sleep_s())
            elif forwarded < _BATCH_RECORDS:
                await self._clock.sleep(_PACE_S)

    def _sleep_s(self) -> float:
        now_ms, look_ms = self._now_ms(), self._due.next_look_ms()
        if look_ms is None:
            return _LONGEST_SLEEP_S
        return min(max(look_ms - now_ms, 1) / 1000, _LONGEST_SLEEP_S)

    def _now_ms(self) -> int:
        """The wall clock; what is held learns of it when it was set back."""
        now_ms = self._clock.now_ms()
        if now_ms < self._latest_ms:
            log.warning("clock_set_back", extra={"by_ms": self._latest_ms - now_ms})
            self._due.set_back(now_ms, lambda partition: (self._settings.topics.delay_s(partition.topic) or 0) * 1000)
        self._latest_ms = now_ms
        return now_ms

    async def _forward_due(self) -> int:
        """Publish one batch of what is due and wait for all its confirmations; how many they were."""
        async with self._sending:
            now_ms, commits = self._now_ms(), self._commits
            batch = self._due.take(now_ms, _BATCH_RECORDS)
            self._apply_pauses(now_ms)
            if not batch:
                return 0
            self._in_flight_due_ms = batch[0].due_ms
            try:
                records = [held.record for held in batch]
                await publish(self._producer, self._hops, records, self._hops.after, now_ms)
            finally:
                self._in_flight_due_ms = None
            # Per partition the batch is in order, so the last of each stays.
            commits.done({TopicPartition(*held.partition): held.offset + 1 for held in batch})
            self._moved.set()
            self._condition.progress()
            self.forwarded += len(batch)
            FORWARDED.inc(len(batch))
            return len(batch)

    # -- beside it

    async def _commit(self) -> None:
        """At once after a quiet time, else every half second."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            if await self._commits.commit(self._consumer):
                self._moved.set()
            await self._clock.sleep(_COMMIT_EVERY_S)

    async def _probe(self) -> None:
        """Ask Kafka for a sign of life now and then: an idle scheduler would not notice that it is gone."""
        topics = self._settings.topics
        needed = (topics.deliveries, *map(topics.tier, self._settings.schedule.tiers_s))
        while True:
            self._condition.broker(await self._producer.check(_PROBE_EVERY_S, needed))
            await self._clock.sleep(_PROBE_EVERY_S)

    async def _watch_skips(self) -> None:
        """Records that were gone before we read them: an alarm in the attempt log, and not ready."""
        while True:
            await self._clock.sleep(_SKIPS_EVERY_S)
            if self._skips.due:
                alarms = await self._skips.alarms()
                self._condition.skipped = self._condition.skipped or self._skips.trouble
                await self._producer.send_all([alarm.to_record(self._settings.topics.attempts) for alarm in alarms])


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
