"""The real server on a real socket, over the real parts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from ingest_api.app import create_app
from ingest_api.parts import Parts, build_parts
from ingest_api.server import BoundedHttp, new_server
from shared.kafka import client_options, ensure_topics
from shared.settings import Settings
from tests.conftest import FreshSettings, delete_topics

_READY_S = 10.0


@dataclass(frozen=True)
class Api:
    """One running server and a client for it."""

    settings: Settings
    parts: Parts
    port: int
    client: httpx.AsyncClient

    async def subscribe(self, **fields: Any) -> dict[str, Any]:
        """A new subscription's answer."""
        answer = await self.client.post("/subscriptions/", json={"target_url": "https://example.com/hook", **fields})
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def raw(self, request: bytes) -> bytes:
        """Whatever the server says to these bytes, until it closes (requests say `Connection: close`)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            async with asyncio.timeout(_READY_S):
                return await reader.read()
        finally:
            await close(writer)

    async def records(self) -> list[Any]:
        """Everything that stands in `deliveries` now, up to its end."""
        return await all_records(self.settings, self.settings.topics.deliveries)


@asynccontextmanager
async def running_api(settings: Settings, protocol: type[BoundedHttp] = BoundedHttp) -> AsyncIterator[Api]:
    """Serves in this loop until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    parts = build_parts(settings)
    server = new_server(create_app(settings, parts), protocol)
    await parts.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield Api(settings, parts, port, client)
    finally:
        server.should_exit = True
        await serving
        await parts.stop()


async def close(writer: asyncio.StreamWriter) -> None:
    """Until nothing of the connection is left; the server may have cut it."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def until(condition: Any, within_s: float = _READY_S) -> None:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  any condition, without an event to wait for
            await asyncio.sleep(0.01)


async def all_records(settings: Settings, topic: str) -> list[Any]:
    """Every record of a topic, from the beginning to the end it has now."""
    consumer = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        starts, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        found: list[Any] = []
        async with asyncio.timeout(20):
            # Other tests delete from the front, as the janitor does.
            while sum(ends.values()) - sum(starts.values()) > len(found):
                batches = await consumer.getmany(timeout_ms=1000)
                found += [record for batch in batches.values() for record in batch]
        return found
    finally:
        await consumer.stop()


@pytest.fixture(scope="session")
async def api_settings(fresh_settings: FreshSettings) -> AsyncIterator[Settings]:
    """Fresh names for all of tests/api, topics created."""
    settings = fresh_settings(dev_receiver=True, retry_delays="1s,2s", max_payload_bytes=64 * 1024)
    await ensure_topics(settings)
    yield settings
    await delete_topics(settings)


@pytest.fixture(scope="session")
async def api(api_settings: Settings) -> AsyncIterator[Api]:
    """Without keys, with the development receiver."""
    async with running_api(api_settings) as running:
        await until(lambda: running.parts.watch.report()["status"] == "ok")
        yield running
