"""Replay jobs: read a range of a topic, publish what is wanted back to `deliveries`, remember how far in Postgres.

One step at a time, whatever job is due: some hundreds of records of one job, then the next job. A job takes its next
step when the stream has finished what it published last, so a large backlog neither floods `deliveries` nor keeps
others waiting, and a slow endpoint gets its events no faster than it takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import timedelta

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from retry_scheduler.next_hop import Hops, Tiered
from retry_scheduler.publish import Publisher, publish
from retry_scheduler.range_reader import RangeReader
from retry_scheduler.replay_job import STEP_EVERY, Job, subscription_of
from retry_scheduler.replay_rows import ReplayRows
from retry_scheduler.stream_progress import StreamProgress
from shared.attempt_records import Alarm, Attempt
from shared.clock import Clock, SystemClock
from shared.errors import NotConfirmed, StoreUnavailable
from shared.kafka import max_record_bytes
from shared.records import Source, delivery_from_record
from shared.settings import Settings
from shared.store_calls import StoreCalls
from shared.topics import home_partition

log = logging.getLogger(__name__)

#: How soon a job that was made is seen.
_LOOK_EVERY_S = 0.5
_RETRY_AFTER_S = 1.0
_FORGET_EVERY_S = 3600.0
#: Less than the lease of a step. What was sent and not confirmed by then is sent again, from the cursor.
_PUBLISH_S = 8.0


class Replays:
    """Runs what is due; several schedulers share the jobs, step by step."""

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
        self._producer = producer
        self._rows = rows
        self._calls = calls
        self._clock = clock or SystemClock()
        self._hops = Hops(settings.topics, settings.schedule, lambda topic: max_record_bytes(topic, settings))
        self._reader = RangeReader(settings)
        self._stream = StreamProgress(settings, self._reader, self._clock)
        self._forgot_s = -_FORGET_EVERY_S
        self.published = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. Kafka or Postgres out of reach: waits and goes on from the cursors."""
        trouble = ""
        while not stop.is_set():
            try:
                await self._forget_old()
                worked = await self.step()
            except (KafkaError, NotConfirmed, StoreUnavailable, TimeoutError) as error:
                if not trouble:
                    log.warning("replays_wait", extra={"error": f"{type(error).__name__}: {error}"})
                trouble, worked = type(error).__name__, False
                await self._close()
                await _wait(stop, _RETRY_AFTER_S)
            else:
                trouble = ""
            if not worked:
                await _wait(stop, _LOOK_EVERY_S)
        await self._close()

    async def step(self) -> bool:
        """Bring the job whose turn it is a little further. False: none is due."""
        job = await self._calls(self._rows.claim)
        if job is None:
            return False
        try:
            await self._step(job)
        except (KafkaError, NotConfirmed, TimeoutError):
            await self._calls(self._rows.release, job, timedelta(seconds=_RETRY_AFTER_S))
            raise
        return True

    async def _step(self, job: Job) -> None:
        if job.cursor is None:
            await self._advance(job, 0, ())
            return
        partition = home_partition(job.subscription_id, await self._stream.partitions())
        progress = await self._stream.of(partition)
        if not job.allowance or not progress.has_room(job, partition):
            await self._calls(self._rows.release, job, max(STEP_EVERY, job.next_step_after(0)))
            return
        here = TopicPartition(job.topic, job.cursor.partition)
        found = await self._reader.read(
            here,
            job.cursor.next_offset,
            job.cursor.to_offset,
            lambda tiered: subscription_of(tiered) == job.subscription_id,
            job.allowance,
        )
        async with asyncio.timeout(_PUBLISH_S):
            if found.gone:
                await self._raise_alarm(job, here, found.next_offset - found.gone, found.next_offset)
            places = await self._publish(job, found.records)
        await self._advance(job, found.next_offset, places)

    async def _publish(self, job: Job, records: Sequence[Tiered]) -> list[Source]:
        """In their order. The attempt log hears of it, so that what was paused is queued again."""
        now_ms = self._clock.now_ms()
        places = await publish(self._producer, self._hops, records, self._hops.resumed, now_ms)
        if not job.deleted:
            topics = self._settings.topics
            pairs = [pair for pair in zip(records, places, strict=True) if pair[1].topic == topics.deliveries]
            notes = [_resumed(tiered, place, job.tenant, now_ms) for tiered, place in pairs]
            await self._producer.send_all([note.to_record(topics.attempts) for note in notes])
        return places

    async def _advance(self, job: Job, next_offset: int, places: Sequence[Source]) -> None:
        last = next((place for place in reversed(places) if place.topic == self._settings.topics.deliveries), None)
        if await self._calls(self._rows.advance, job, next_offset, len(places), last):
            self.published += len(places)
            facts = {"replay_id": job.id, "subscription_id": job.subscription_id, "published": len(places)}
            log.info("replayed", extra=facts)
        else:
            log.warning("replay_overtaken", extra={"replay_id": job.id, "repeated": len(places)})

    async def _raise_alarm(self, job: Job, here: TopicPartition, first: int, go_on: int) -> None:
        source = str(Source(here.topic, here.partition, first))
        log.error("records_skipped", extra={"replay_id": job.id, "source": source, "position": go_on})
        group = self._settings.topics.group("replays")
        alarm = Alarm("records_skipped", group, source, first, go_on, self._clock.now_ms())
        await self._producer.send(alarm.to_record(self._settings.topics.attempts))

    async def _forget_old(self) -> None:
        if self._clock.monotonic_s() - self._forgot_s >= _FORGET_EVERY_S:
            await self._calls(self._rows.forget_old)
            self._forgot_s = self._clock.monotonic_s()

    async def _close(self) -> None:
        await self._reader.close()
        await self._stream.close()


def _resumed(tiered: Tiered, place: Source, tenant: str, now_ms: int) -> Attempt:
    """What the attempt log shall say of a record that is on its way again, at ``place``."""
    delivery = delivery_from_record(tiered.source, tiered.value, tiered.headers, tiered.appended_ms)
    return Attempt(
        kind="resumed",
        webhook_id=delivery.webhook_id,
        subscription_id=delivery.subscription_id,
        run=delivery.run,
        attempt=delivery.attempt,
        accepted_ms=delivery.accepted_ms,
        attempted_ms=now_ms,
        tenant=tenant,
        event_type=delivery.event_type,
        waits=delivery.waits,
        source=str(place),
        event_id=delivery.event_id,
    )


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
