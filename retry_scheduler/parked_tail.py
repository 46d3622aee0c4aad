"""Reads `parked` and notes in Postgres what stands there, so that a resume finds it. Publishes almost nothing itself.

Offsets are committed after Postgres has committed; noting again does no harm. While Postgres is out of reach this waits
and stays in its group; the events are in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from retry_scheduler.janitor import NOTING
from retry_scheduler.next_hop import Hops, Tiered
from retry_scheduler.publish import Publisher, publish
from retry_scheduler.replay_job import sort_parked
from retry_scheduler.replay_rows import ReplayRows
from shared.clock import Clock, SystemClock
from shared.commits import Commits
from shared.errors import StoreUnavailable
from shared.kafka import SkipWatch, leave, max_record_bytes, new_consumer
from shared.membership import while_member
from shared.parking import Found
from shared.settings import Settings
from shared.store_calls import StoreCalls

log = logging.getLogger(__name__)

_FETCH_MS = 500
_BATCH_RECORDS = 1_000
_SETTLE_S = 3.0
_BROKER_ANSWER_S = 3.0
_RETRY_AFTER_S = 1.0
_LONGEST_BACK_OFF_S = 5.0


class ParkedTail(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One member of the group; several share the partitions."""

    def __init__(
        self,
        settings: Settings,
        producer: Publisher,
        rows: ReplayRows,
        calls: StoreCalls,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._topic = settings.topics.parked
        self._producer = producer
        self._rows = rows
        self._calls = calls
        self._clock = clock or SystemClock()
        self._hops = Hops(settings.topics, settings.schedule, lambda topic: max_record_bytes(topic, settings))
        self._stepping = asyncio.Lock()
        self._consumer: AIOKafkaConsumer
        self._skips: SkipWatch
        self._commits: Commits
        self._commit_trouble = ""

    def troubles(self) -> Mapping[str, str]:
        """Records that were gone before they were noted; a commit that failed and is not made good yet."""
        skipped = self._skips.trouble if hasattr(self, "_skips") else ""
        found = {"records_skipped": skipped, "parked": self._commit_trouble}
        return {name: trouble for name, trouble in found.items() if trouble}

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. Kafka out of reach: waits and joins again."""
        while not stop.is_set():
            try:
                await self._membership(stop)
            except KafkaError as error:
                log.warning("parked_membership_lost", extra={"error": f"{type(error).__name__}: {error}"})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_AFTER_S):
                        await stop.wait()

    async def _membership(self, stop: asyncio.Event) -> None:
        group = self._settings.topics.group(NOTING)
        self._consumer = new_consumer(self._settings, group=group, topics=(self._topic,), listener=self)
        self._skips = SkipWatch(self._consumer, group, clock=self._clock)
        self._commits = Commits()
        try:
            await self._consumer.start()
            while not stop.is_set():
                await self._step(stop)
        finally:
            await leave(self._consumer)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        try:
            async with asyncio.timeout(_BROKER_ANSWER_S):
                committed = await asyncio.gather(*map(self._consumer.committed, assigned))
        except (KafkaError, TimeoutError) as error:
            log.warning("committed_unknown", extra={"error": f"{type(error).__name__}: {error}"})
        else:
            self._skips.assigned(dict(zip(assigned, committed, strict=True)))

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """What is in hand is noted and committed first, if Postgres answers; else the next owner notes it again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S), self._stepping:
                pass
        self._skips.revoked(revoked)
        self._commits.forget(revoked)

    async def _step(self, stop: asyncio.Event) -> None:
        fetched = await self._consumer.getmany(timeout_ms=_FETCH_MS, max_records=_BATCH_RECORDS)
        async with self._stepping:
            # What was given away while we waited for the fetch is its next owner's.
            ours = {tp: records for tp, records in fetched.items() if tp in self._consumer.assignment()}
            for tp, records in ours.items():
                self._skips.received(tp, records[0].offset, records[-1].offset)
            if ours and await self._take_in([record for records in ours.values() for record in records], stop):
                self._commits.done({tp: records[-1].offset + 1 for tp, records in ours.items()})
            # Without a new record, too: one that failed is made good.
            self._commit_trouble = await self._commits.commit(self._consumer)
        if self._skips.due:
            for alarm in await self._skips.alarms():
                await self._producer.send(alarm.to_record(self._settings.topics.attempts))

    async def _take_in(self, records: Sequence[ConsumerRecord], stop: asyncio.Event) -> bool:
        """Note them and pass on what names no subscription. False: asked to stop before Postgres answered."""
        batch = [Tiered.of(record) for record in records]
        parked = sort_parked(batch)
        unknown = await self._noted(parked.spans, stop) if parked.spans else set()
        if unknown is None:
            return False
        # A subscription that never was: the stream says so, as of any record. What cannot be read is dead-lettered.
        strays = [one for one, owner in zip(batch, parked.owners, strict=True) if owner is None or owner in unknown]
        if strays:
            going = publish(self._producer, self._hops, strays, self._hops.resumed, self._clock.now_ms())
            await while_member(self._consumer, going)
        return True

    async def _noted(self, spans: Found, stop: asyncio.Event) -> set[str] | None:
        """The subscriptions nobody knows; None: asked to stop before Postgres answered."""
        back_off_s = 0.2
        while True:
            try:
                return await while_member(self._consumer, self._calls(self._rows.note, self._topic, spans))
            except StoreUnavailable as error:
                log.warning("parked_not_noted", extra={"error": str(error), "again_in_s": back_off_s})
            if stop.is_set():
                return None
            await while_member(self._consumer, self._clock.sleep(back_off_s))
            back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)
