"""Deletes what is done and old from the queue topics; never what is not done, however old.

These topics have no retention of their own. A record may go when every group that owns its topic has committed past it
and it is older than LOG_RETENTION_HOURS. The payload of a delivery that still waits is in its tier's record, so a
`deliveries` record that is done is not needed for it. A record of `parked` is done once it was noted in Postgres and
its job has published it: what Postgres says is still needed stays, and without its word nothing of `parked` goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from shared.clock import Clock, SystemClock
from shared.errors import StoreUnavailable
from shared.kafka import client_options
from shared.settings import Settings
from shared.topics import Topics

log = logging.getLogger(__name__)

#: The group of those who read `parked` and note it in Postgres.
NOTING = "retry-scheduler-parked"
_SWEEP_TIMEOUT_S = 120.0
_DELETE_TIMEOUT_MS = 10_000

#: By topic and partition: the first offset that somebody still needs, whatever was committed.
StillNeeded = Mapping[tuple[str, int], int]


def owners(topics: Topics, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The topics that are swept, each with the groups that must have passed a record before it goes."""
    stream, sink = topics.group("delivery-stream"), topics.group("attempt-sink")
    scheduler, noting = topics.group("retry-scheduler"), topics.group(NOTING)
    swept = {topics.events: (stream, sink), topics.deliveries: (stream, sink), topics.attempts: (sink,)}
    swept[topics.parked] = (noting,)
    tiers = {name: (scheduler,) for name in names if topics.delay_s(name) is not None}
    return {name: groups for name, groups in {**swept, **tiers}.items() if name in set(names)}


def watermarks(
    owned: Mapping[str, tuple[str, ...]],
    committed: Mapping[str, Mapping[TopicPartition, int]],
    still_needed: StillNeeded,
) -> dict[TopicPartition, int]:
    """Below which offset each partition is done for all its owners; without the ones some owner never committed.

    ``still_needed`` was asked for after ``committed``: what a group has passed by then, it has noted there.
    """
    everywhere = {partition for offsets in committed.values() for partition in offsets}
    done = {}
    for partition in everywhere:
        groups = owned.get(partition.topic, ())
        passed = [committed.get(group, {}).get(partition, -1) for group in groups]
        if passed and min(passed) > 0:
            done[partition] = min([*passed, *([still_needed[partition]] if partition in still_needed else [])])
    return done


class Janitor:
    """Sweeps now and then. Two of them do no harm to each other."""

    def __init__(
        self,
        settings: Settings,
        still_needed: Callable[[], Awaitable[StillNeeded]],
        *,
        clock: Clock | None = None,
        period_s: float = 300.0,
    ) -> None:
        """``still_needed`` raises StoreUnavailable when nobody can tell."""
        self._settings = settings
        self._still_needed = still_needed
        self._clock = clock or SystemClock()
        self._period_s = period_s

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep every period until ``stop`` is set; what fails is tried again in the next one."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(_SWEEP_TIMEOUT_S):
                    await self.sweep()
            except (KafkaError, TimeoutError) as error:
                log.warning("sweep_failed", extra={"error": f"{type(error).__name__}: {error}"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await stop.wait()

    async def sweep(self) -> dict[TopicPartition, int]:
        """Delete once; the first offset that is left, of each partition that was cut."""
        options = client_options(self._settings)
        admin, consumer = AIOKafkaAdminClient(**options), AIOKafkaConsumer(**options, group_id=None)
        try:
            await admin.start()
            await consumer.start()
            cuts = await self._cuts(consumer, await self._done(admin))
            return await _delete(admin, cuts)
        finally:
            await consumer.stop()
            await admin.close()

    async def _done(self, admin: AIOKafkaAdminClient) -> dict[TopicPartition, int]:
        owned = owners(self._settings.topics, await admin.list_topics())
        committed = {}
        for group in {group for groups in owned.values() for group in groups}:
            offsets = await admin.list_consumer_group_offsets(group)
            committed[group] = {partition: at.offset for partition, at in offsets.items()}
        try:
            still_needed = await self._still_needed()
        except StoreUnavailable as error:
            log.warning("parked_not_swept", extra={"error": str(error)})
            committed.pop(self._settings.topics.group(NOTING), None)
            still_needed = {}
        return watermarks(owned, committed, still_needed)

    async def _cuts(self, consumer: AIOKafkaConsumer, done: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """min(done, old), where that deletes anything."""
        if not done:
            return {}
        old_ms = max(0, self._clock.now_ms() - int(self._settings.log_retention_hours * 3_600_000))
        young = await consumer.offsets_for_times(dict.fromkeys(done, old_ms))
        starts, ends = await consumer.beginning_offsets(list(done)), await consumer.end_offsets(list(done))
        cuts = {}
        for partition, done_below in done.items():
            # No young record at all: everything up to the end is old.
            first_young = young[partition].offset if young.get(partition) else ends[partition]
            cut = min(done_below, first_young, ends[partition])
            if cut > starts[partition]:
                cuts[partition] = cut
        return cuts


async def _delete(admin: AIOKafkaAdminClient, cuts: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Topic by topic, so that one without a leader does not keep the others."""
    deleted: dict[TopicPartition, int] = {}
    for topic in sorted({partition.topic for partition in cuts}):
        wanted = {partition: RecordsToDelete(cut) for partition, cut in cuts.items() if partition.topic == topic}
        try:
            deleted.update(await admin.delete_records(wanted, timeout_ms=_DELETE_TIMEOUT_MS))
        except KafkaError as error:
            log.warning("delete_failed", extra={"topic": topic, "error": f"{type(error).__name__}: {error}"})
        else:
            log.info("swept", extra={"topic": topic, "partitions": len(wanted)})
    return deleted
