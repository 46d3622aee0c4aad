"""Records of other topics than `deliveries`, which go on beside it and stop nobody: events to be fanned out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiokafka import ConsumerRecord

from delivery_stream.under_way import Held, UnderWay

#: Records under way at once, and of one partition in memory before more is read.
BESIDE_AT_ONCE = 16


class Beside:
    """By topic, who handles its records; each waits for its slot by itself."""

    def __init__(
        self, handlers: Mapping[str, Callable[[ConsumerRecord], Awaitable[None]]], under_way: UnderWay
    ) -> None:
        self._handlers = handlers
        self._under_way = under_way
        self._slots = asyncio.Semaphore(BESIDE_AT_ONCE)

    def __contains__(self, topic: str) -> bool:
        return topic in self._handlers

    def has_room(self, held: Held) -> bool:
        return len(held.tasks) < BESIDE_AT_ONCE

    def take(self, records: Sequence[ConsumerRecord], held: Held) -> None:
        """All of one fetch at once."""
        for record in records:
            if held.tracker.received(record.offset):
                self._under_way.start(self._one(record, held), held)

    async def _one(self, record: ConsumerRecord, held: Held) -> None:
        async with self._slots:
            if held.closing:
                # Received and never done: the next owner starts with it.
                return
            await self._handlers[record.topic](record)
            self._under_way.finish(held, record.offset)
