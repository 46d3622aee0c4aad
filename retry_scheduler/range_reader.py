"""Reads a range of one partition, for a replay job: a plain consumer that belongs to no group and commits nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from retry_scheduler.next_hop import Tiered
from shared.kafka import client_options, leave
from shared.settings import Settings

#: Records looked at in one call; of a subscription that has few among many, a step may find none.
_SCAN_RECORDS = 5_000
_SCAN_S = 2.0
_FETCH_MS = 500
_ANSWER_S = 5.0


class Found(NamedTuple):
    """What one call read."""

    records: list[Tiered]
    #: Everything before it was looked at.
    next_offset: int
    #: This many offsets were not there any more, or never.
    gone: int = 0


class RangeReader:
    """One consumer for all jobs, one job at a time. Everything raises KafkaError, and TimeoutError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._here: TopicPartition | None = None

    async def read(
        self, partition: TopicPartition, start: int, end: int, wanted: Callable[[Tiered], bool], most: int
    ) -> Found:
        """At most ``most`` records that are ``wanted``, of the offsets from ``start`` to before ``end``.

        Bounded in time and in records looked at: it may find none and have come further all the same.
        """
        consumer = await self._at(partition, start)
        found: list[Tiered] = []
        position, scanned = start, 0
        deadline_s = asyncio.get_running_loop().time() + _SCAN_S
        while position < end and len(found) < most and scanned < _SCAN_RECORDS:
            left_ms = int((deadline_s - asyncio.get_running_loop().time()) * 1000)
            if left_ms <= 0:
                break
            try:
                # No more than can be used: what is fetched beyond stays in the consumer for the next call.
                fetched = await consumer.getmany(
                    partition, timeout_ms=min(left_ms, _FETCH_MS), max_records=most - len(found)
                )
            except OffsetOutOfRangeError:
                return await self._skipped(consumer, partition, found, position, end)
            for record in fetched.get(partition, ()):
                position, scanned = record.offset + 1, scanned + 1
                if record.offset < end and wanted(tiered := Tiered.of(record)):
                    found.append(tiered)
        if position == start and not found:
            return await self._skipped(consumer, partition, found, position, end)
        return Found(found, min(position, end))

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where each log ends."""
        consumer = await self._started()
        async with asyncio.timeout(_ANSWER_S):
            ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return ends

    async def close(self) -> None:
        """It can be used again."""
        consumer, self._consumer, self._here = self._consumer, None, None
        if consumer is not None:
            await leave(consumer)

    async def _skipped(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, found: list[Tiered], position: int, end: int
    ) -> Found:
        """Nothing came: what somebody deleted, or what a log that was made anew never had, is passed over."""
        async with asyncio.timeout(_ANSWER_S):
            starts = await consumer.beginning_offsets([partition])
            ends = await consumer.end_offsets([partition])
        go_on = end if ends[partition] <= position else min(max(position, starts[partition]), end)
        self._here = None
        return Found(found, go_on, go_on - position)

    async def _at(self, partition: TopicPartition, start: int) -> AIOKafkaConsumer:
        consumer = await self._started()
        if self._here != partition:
            consumer.assign([partition])
            self._here = partition
            consumer.seek(partition, start)
        else:
            async with asyncio.timeout(_ANSWER_S):
                if await consumer.position(partition) != start:
                    consumer.seek(partition, start)
        return consumer

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **client_options(self._settings),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_wait_ms=100,
                max_partition_fetch_bytes=256 * 1024,
            )
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await consumer.start()
            except BaseException:
                await leave(consumer)
                raise
            self._consumer = consumer
        return self._consumer
