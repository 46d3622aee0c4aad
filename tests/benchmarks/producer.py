"""What an acknowledged send costs through Producer, against aiokafka alone: `python tests/benchmarks/producer.py`.

Reads KAFKA_BOOTSTRAP_SERVERS; prints CPU microseconds of this process per send, sends per second and latency.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import orjson
import uvloop
from aiokafka import AIOKafkaProducer

from shared.kafka import Producer, client_options, ensure_topics
from shared.records import Delivery, Record
from shared.settings import Settings

_SENDS = 20_000


async def main() -> None:
    settings = Settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.")
    await ensure_topics(settings)
    records = [_record(settings.topics.deliveries, n) for n in range(1000)]
    ours = Producer(settings)
    await ours.start()
    bare = {name: _bare(settings, name) for name in (None, "lz4")}
    for producer in bare.values():
        await producer.start()

    async def through(producer: AIOKafkaProducer, record: Record) -> None:
        await (await producer.send(record.topic, record.value, record.key, headers=list(record.headers)))

    async def bounded(record: Record) -> None:
        await ours.send(record, 5.0)

    for writers in (16, 64, 256):
        for compression, producer in bare.items():
            await _measure(f"bare, {compression}", writers, records, lambda r, p=producer: through(p, r))  # type: ignore[misc]
        await _measure("Producer", writers, records, ours.send)
        await _measure("Producer, 5 s", writers, records, bounded)
    for producer in (ours, *bare.values()):
        await producer.stop()


def _bare(settings: Settings, compression: str | None) -> AIOKafkaProducer:
    options = client_options(settings) | {"compression_type": compression, "max_batch_size": 128 * 1024}
    return AIOKafkaProducer(acks="all", enable_idempotence=True, linger_ms=0, **options)


def _record(topic: str, n: int) -> Record:
    lines = [
        {"sku": str(uuid.uuid4()), "quantity": n % 7, "price_cents": 1000 + n, "note": "as agreed"} for _ in range(9)
    ]
    payload = orjson.dumps({"event_type": "order.created", "id": str(uuid.uuid4()), "amount": 1234, "lines": lines})
    delivery = Delivery(str(uuid.uuid4()), str(uuid.UUID(int=n % 100)), payload, 1_700_000_000_000, "order.created")
    return delivery.to_record(topic)


async def _measure(name: str, writers: int, records: list[Record], send: Callable[[Record], Awaitable[object]]) -> None:
    latencies: list[float] = []

    async def writer(first: int) -> None:
        for n in range(first, _SENDS, writers):
            began = time.perf_counter()
            await send(records[n % len(records)])
            latencies.append(time.perf_counter() - began)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(writer(first) for first in range(writers)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    p50_ms = sorted(latencies)[len(latencies) // 2] * 1e3
    sys.stdout.write(
        f"{writers:4} writers  {name:14} {cpu / _SENDS * 1e6:6.1f} us  {_SENDS / wall:6.0f}/s  p50 {p50_ms:.1f} ms\n"
    )


if __name__ == "__main__":
    uvloop.run(main())
