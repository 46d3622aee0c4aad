"""Staying in a consumer group while something takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aiokafka import AIOKafkaConsumer

_T = TypeVar("_T")

_SHORT_S = 1.0
_POLL_MS = 500


async def while_member(consumer: AIOKafkaConsumer, work: Awaitable[_T]) -> _T:
    """Wait for ``work``. When it takes long, reading pauses and polling goes on: that keeps the membership."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=_SHORT_S)
        while not task.done():
            await _poll_paused(consumer)
        return await task
    finally:
        task.cancel()
        consumer.resume(*(consumer.paused() & consumer.assignment()))


async def _poll_paused(consumer: AIOKafkaConsumer) -> None:
    consumer.pause(*consumer.assignment())
    fetched = await consumer.getmany(timeout_ms=_POLL_MS)
    for partition, records in fetched.items():
        # Assigned while we waited, or fetched before the pause: to be read later.
        if partition in consumer.assignment():
            consumer.seek(partition, records[0].offset)
