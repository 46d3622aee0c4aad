"""The broker goes away under a waiting scheduler."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest

from shared.clock import SystemClock
from shared.kafka import Producer, ensure_topics
from shared.records import Delivery
from shared.settings import Settings
from tests.own_broker import OwnBroker
from tests.system import SCHEDULER, System, read_topic


@pytest.mark.long_form
async def test_a_broker_that_dies_and_comes_back_loses_no_retry_and_needs_no_restart(tmp_path: Path) -> None:
    broker = OwnBroker(tmp_path / "kafka")
    broker.start()
    try:
        await broker.ready()
        settings = Settings(
            _env_file=None,
            kafka_bootstrap_servers=broker.bootstrap_servers,
            partitions=2,
            retry_delays=(4,),
            data_dir=tmp_path,
        )
        await ensure_topics(settings)
        await _fill(settings, 300)
        async with System(settings, only=(SCHEDULER,)) as system, httpx.AsyncClient() as client:
            health = f"http://127.0.0.1:{system._ports[SCHEDULER]}"
            await broker.halt(signal.SIGKILL)
            await _answers(client, f"{health}/ready", 503, within_s=15)
            assert (await client.get(f"{health}/live")).status_code == 200
            broker.go_on(signal.SIGKILL)
            await broker.ready()
            await _answers(client, f"{health}/ready", 200, within_s=30)
            counts = await _forwarded(settings, 300, within_s=30)
            assert set(counts) == {f"{n}".encode() for n in range(300)}
            assert max(counts.values()) <= 2
            # Asked to stop while Kafka is away, it does not wait for it.
            await broker.halt(signal.SIGKILL)
            system.kill(SCHEDULER, signal.SIGTERM)
            assert await system.ended(SCHEDULER, within_s=24) == 0
    finally:
        await broker.kill()


async def _fill(settings: Settings, count: int) -> None:
    producer, now_ms = Producer(settings), SystemClock().now_ms()
    await producer.start()
    waiting = [Delivery(f"id-{n}", f"sub-{n}", f"{n}".encode(), now_ms, attempt=2) for n in range(count)]
    await producer.send_all([delivery.to_record(settings.topics.tier(4)) for delivery in waiting])
    await producer.stop()


async def _answers(client: httpx.AsyncClient, url: str, code: int, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while (await client.get(url)).status_code != code:  # noqa: ASYNC110  another process sets no event
            await asyncio.sleep(0.1)


async def _forwarded(settings: Settings, count: int, within_s: float) -> Counter[bytes]:
    async with asyncio.timeout(within_s):
        while True:
            counts = Counter(record.value for record in await read_topic(settings, settings.topics.deliveries))
            if len(counts) >= count:
                return counts
            await asyncio.sleep(0.2)
