"""What a topic really holds, read from its first record to its last."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from shared.broker import client_options
from shared.records import Source
from shared.settings import Settings


async def read_topic(settings: Settings, topic: str, *, within_s: float = 20) -> dict[Source, bytes]:
    """The value of every record that is in ``topic`` now, by its place. Raises as `read_records`."""
    records = await read_records(settings, topic, within_s=within_s)
    return {Source(r.topic, r.partition, r.offset): r.value for r in records}


async def read_records(settings: Settings, topic: str, *, within_s: float = 20) -> list[ConsumerRecord]:
    """Every record that is in ``topic`` now. Raises TimeoutError when offsets are missing."""
    consumer = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(within_s):
            partitions = [TopicPartition(topic, number) for number in await _partitions(settings, topic)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(within_s):
            while len(found) < sum(ends.values()):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += batch
        return found
    finally:
        await consumer.stop()


async def _partitions(settings: Settings, topic: str) -> list[int]:
    """A broker that has just come back may not know itself yet: asked again, without end."""
    while True:
        try:
            return await _described_partitions(settings, topic)
        except KafkaError:
            await asyncio.sleep(0.2)


async def _described_partitions(settings: Settings, topic: str) -> list[int]:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        [described] = await admin.describe_topics([topic])
        return [partition["partition"] for partition in described["partitions"]]
    finally:
        await admin.close()
