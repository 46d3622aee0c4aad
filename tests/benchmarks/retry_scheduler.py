"""How fast a due backlog is forwarded, and how late records are at a steady rate.

`python -m tests.benchmarks.retry_scheduler`, with KAFKA_BOOTSTRAP_SERVERS set. Load generator and scheduler share
one process; lateness is when the forward was handed to the producer minus (append time in the tier + delay).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop

from retry_scheduler.forward import Forwarder
from shared.clock import SystemClock
from shared.kafka import Producer, ensure_topics
from shared.records import Delivery
from shared.settings import Settings
from tests.conftest import delete_topics
from tests.system import read_topic

_BACKLOG = 40_000
_STEADY_S = 8
_EACH_S = 250
_TIERS = (1, 2, 3)


async def main() -> None:
    settings = Settings(
        kafka_bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        topic_prefix=f"b{secrets.token_hex(4)}.",
        retry_delays=_TIERS,
        partitions=4,
    )
    await ensure_topics(settings)
    producer = Producer(settings)
    await producer.start()
    try:
        await _backlog(settings, producer)
        await _steady(settings, producer)
    finally:
        await producer.stop()
        await delete_topics(settings)


async def _backlog(settings: Settings, producer: Producer) -> None:
    for first in range(0, _BACKLOG, 1_000):
        await _retries(settings, producer, 1, first, 1_000)
    await asyncio.sleep(1.0)  # all of it is due
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    async with _forwarding(settings, producer) as forwarder:
        while forwarder.forwarded < _BACKLOG:  # noqa: ASYNC110  a count sets no event
            await asyncio.sleep(0.01)
        took_s, cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
    print(f"backlog  {_BACKLOG / took_s:,.0f} records/s, {cpu_s / _BACKLOG * 1e6:.0f} µs of CPU each, joining included")


async def _steady(settings: Settings, producer: Producer) -> None:
    total = _STEADY_S * _EACH_S * len(_TIERS)
    started_cpu_s = time.process_time()
    async with _forwarding(settings, producer) as forwarder:
        for step in range(_STEADY_S * 50):
            due_s = asyncio.get_running_loop().time() + 0.02
            for delay_s in _TIERS:
                await _retries(settings, producer, delay_s, _BACKLOG + step * 5, _EACH_S // 50)
            await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
        while forwarder.forwarded < total:  # noqa: ASYNC110  a count sets no event
            await asyncio.sleep(0.01)
    cpu_s = time.process_time() - started_cpu_s
    late_ms = sorted(await _lateness_ms(settings))
    assert len(late_ms) == total
    marks = {name: late_ms[int(len(late_ms) * part)] for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    rate = total / _STEADY_S
    print(
        f"steady   {rate:,.0f}/s over {len(_TIERS)} tiers: late by {marks}, max {late_ms[-1]} ms, min {late_ms[0]} ms"
    )
    print(f"         CPU {cpu_s / total * 1e6:.0f} µs a record, the load generator's part included")


async def _lateness_ms(settings: Settings) -> list[int]:
    forwarded = {record.value: record.timestamp for record in await read_topic(settings, settings.topics.deliveries)}
    late: list[int] = []
    for delay_s in _TIERS:
        waited = [r for r in await read_topic(settings, settings.topics.tier(delay_s)) if r.value.startswith(b"steady")]
        late += [forwarded[record.value] - record.timestamp - delay_s * 1000 for record in waited]
    return late


async def _retries(settings: Settings, producer: Producer, delay_s: int, first: int, count: int) -> None:
    kind = b"backlog" if first < _BACKLOG else b"steady"
    now_ms, tier = SystemClock().now_ms(), settings.topics.tier(delay_s)
    deliveries = [
        Delivery(f"id-{n}", f"sub-{n % 40}", b"%s %d %d %s" % (kind, delay_s, n, b"x" * 380), now_ms, attempt=2)
        for n in range(first, first + count)
    ]
    await producer.send_all([delivery.to_record(tier) for delivery in deliveries])


@asynccontextmanager
async def _forwarding(settings: Settings, producer: Producer) -> AsyncIterator[Forwarder]:
    stop, forwarder = asyncio.Event(), Forwarder(settings, producer)
    running = asyncio.ensure_future(forwarder.run(stop))
    yield forwarder
    stop.set()
    await running


if __name__ == "__main__":
    uvloop.run(main())
