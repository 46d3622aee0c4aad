"""One idempotent aiokafka producer, from its connect to its first failed batch.

This is the one place that touches aiokafka's inside (0.14, pinned): its own ``stop`` waits for acknowledgements without
bound, so a producer that must be thrown away could never be. `shared/producer.py` decides when that is.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerClosed, UnknownTopicOrPartitionError

from shared import kafka_compression
from shared.broker import client_options, largest_record_bytes
from shared.records import Record
from shared.settings import Settings
from shared.topics import partition_of

_BATCH_BYTES = 128 * 1024
_HANG_UP_S = 2.0


class ProducerSession:
    """An AIOKafkaProducer that can be dropped at any moment."""

    def __init__(self, settings: Settings) -> None:
        kafka_compression.use()
        # A batch must fit the smallest of our topics, or good records would be refused for their company.
        smallest = largest_record_bytes(settings) // 2
        self._kafka: Any = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            compression_type="lz4",
            max_batch_size=min(_BATCH_BYTES, smallest),
            max_request_size=largest_record_bytes(settings),
            request_timeout_ms=10_000,
            metadata_max_age_ms=30_000,
            retry_backoff_ms=100,
            **client_options(settings),
        )
        self._client = self._kafka.client
        # Kept: asking which loop runs is a system call in Python 3.11.
        self._new_future = asyncio.get_running_loop().create_future

    async def connect(self, timeout_s: float) -> None:
        """Ready for records afterwards. Raises KafkaError, OSError or TimeoutError; the session is closed then."""
        connected = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._kafka.start()
            connected = True
        finally:
            if not connected:
                await self.close()

    async def append(self, record: Record, *, alone: bool = False) -> asyncio.Future[Any]:
        """Queue one record; the future gives aiokafka's RecordMetadata.

        An error of this call took no sequence number; an error of the future did, and the session is of no more use.
        ``alone`` sends it in a batch of its own.
        """
        partitions = self._client.cluster.partitions_for_topic(record.topic) or await self.partitions(record.topic)
        partition = record.partition
        if partition is None and record.key is not None:
            partition = partition_of(record.key, len(partitions))
        if partition is not None and partition not in partitions:
            raise UnknownTopicOrPartitionError(f"{record.topic}:{partition}")
        headers = list(record.headers)
        if not alone:
            return await self._kafka.send(record.topic, record.value, record.key, partition, None, headers)  # type: ignore[no-any-return]
        batch = self._kafka.create_batch()
        batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
        batch.close()
        return await self._kafka.send_batch(batch, record.topic, partition=partition or 0)  # type: ignore[no-any-return]

    def append_now(self, record: Record) -> asyncio.Future[Any] | None:
        """`append` without its waits, at half its cost; None: something has to be waited for, nothing was queued."""
        queue = self._kafka._message_accumulator
        # `partitions_for_topic` makes a set each time, which costs as much as all that follows.
        partitions = self._client.cluster._partitions.get(record.topic)
        if not partitions or record.key is None or queue._closed or queue._exception is not None:
            return None
        place = _place_of(record.topic, record.key, record.partition, len(partitions))
        if place.partition not in partitions:
            return None
        batches = queue._batches.get(place)
        batch = batches[-1] if batches else queue._append_batch(queue.create_builder(), place)
        return batch.append(record.key, record.value, None, self._new_future, list(record.headers))  # type: ignore[no-any-return]

    async def partitions(self, topic: str) -> set[int]:
        """The topic's partitions. Raises UnknownTopicOrPartitionError after 10 s."""
        return await self._kafka.partitions_for(topic)  # type: ignore[no-any-return]

    async def topics(self) -> set[str]:
        """Ask any broker which there are. Raises KafkaError when none answers."""
        metadata = await self._client.fetch_all_metadata()
        return set(metadata.topics())

    @property
    def idle(self) -> bool:
        """Every record ever queued has been answered."""
        queue = self._kafka._message_accumulator
        return not queue._batches and not queue._pending_batches

    async def close(self, flush_s: float = 0.0) -> None:
        """Give what is queued ``flush_s`` seconds, then let go of everything; what is not answered fails then."""
        queue = self._kafka._message_accumulator
        sender = self._kafka._sender.sender_task
        queue._closed = True
        if flush_s and sender is not None:
            await asyncio.wait([asyncio.create_task(self._flush(flush_s)), sender], return_when="FIRST_COMPLETED")
        self._kafka._closed = True
        if sender is not None:
            sender.cancel()  # it still waits for its requests, which end as their connections do
        await self._hang_up()
        if sender is not None:
            await asyncio.wait([sender], timeout=_HANG_UP_S)
        self._fail_queued()
        if sender is not None and not sender.done():
            sender.cancel()  # a request that was still connecting
            await asyncio.wait([sender], timeout=_HANG_UP_S)
        await self._hang_up()  # whatever was connected in between

    async def _flush(self, flush_s: float) -> None:
        try:
            async with asyncio.timeout(flush_s):
                await self._kafka._message_accumulator.flush()
        except TimeoutError:
            pass

    async def _hang_up(self) -> None:
        await self._client.close()
        # Nobody refreshes metadata any more: whoever waits for it would wait for ever.
        if self._client._md_update_fut is None:
            self._client._md_update_fut = asyncio.get_running_loop().create_future()
        if not self._client._md_update_fut.done():
            self._client._md_update_fut.set_result(False)

    def _fail_queued(self) -> None:
        queue = self._kafka._message_accumulator
        waiting = [batch for batches in queue._batches.values() for batch in batches]
        # Back in the queue to be repeated: aiokafka takes it out of the pending ones again when it fails.
        queue._pending_batches.update(batch for batch in waiting if batch.retry_count)
        queue.fail_all(ProducerClosed())
        for batch in waiting:
            batch._drain_waiter.exception()  # seen, else it is logged as forgotten


@lru_cache(maxsize=65536)
def _place_of(topic: str, key: bytes, partition: int | None, partitions: int) -> TopicPartition:
    """Remembered, because murmur2 in Python costs as much as the rest of a send."""
    return TopicPartition(topic, partition_of(key, partitions) if partition is None else partition)
