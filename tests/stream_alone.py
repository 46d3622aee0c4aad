"""A stream worker in this process, on a real broker and without stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from delivery_stream.app import Stream
from delivery_stream.sender import Sender
from shared.clock import SystemClock
from shared.kafka import Producer
from shared.records import Delivery, Event, Record
from shared.settings import Settings
from shared.subscriptions import Absent, Found, Interest, Subscription, Unreachable
from tests.unit.examples import delivery


class OneSubscription:
    """Every id is its own, and nobody asks a store."""

    postgres_trouble = ""

    def __init__(self, known: Subscription, *, in_memory: bool = True) -> None:
        self._found = Found(known)
        self._in_memory = in_memory
        #: Whether it can be told who wants an event.
        self.tells = asyncio.Event()
        self.tells.set()

    def peek(self, _subscription_id: str) -> Found | Absent | None:
        return self._found if self._in_memory else None

    async def get(self, _subscription_id: str) -> Found | Absent | Unreachable:
        return self._found

    async def of_tenant(self, _tenant: str) -> Sequence[Interest]:
        await self.tells.wait()
        return ()


class Ahead(SystemClock):
    """A clock that a test puts forward; what the group and Kafka say has the machine's time."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


@dataclass(frozen=True, slots=True)
class Alone:
    """A worker that runs, and what is sent to it."""

    stream: Stream
    clock: Ahead
    _producer: Producer
    _settings: Settings

    async def send(self, *several: Delivery | Event) -> None:
        """Returns once Kafka has them."""
        topics = self._settings.topics
        records = [one.to_record(topics.deliveries if isinstance(one, Delivery) else topics.events) for one in several]
        await self._producer.send_all([Record(one.topic, one.key, one.value, one.headers) for one in records], 10)

    async def send_one(self, **changes: object) -> Delivery:
        """A delivery that was accepted just now."""
        one = delivery(accepted_ms=self.clock.now_ms(), **changes)
        await self.send(one)
        return one


@asynccontextmanager
async def alone(
    settings: Settings, subscriptions: OneSubscription, sender: Sender, *, waiting: Sequence[Delivery | Event] = ()
) -> AsyncIterator[Alone]:
    """Started; it has joined its group a little later. ``waiting``: sent before. The sender is closed afterwards."""
    clock, producer = Ahead(), Producer(settings)
    await producer.start()
    stream = Stream(settings, producer=producer, subscriptions=subscriptions, sender=sender, clock=clock)
    assert stream.stuck() == {}
    worker = Alone(stream, clock, producer, settings)
    await worker.send(*waiting)
    await stream.start()
    try:
        yield worker
    finally:
        await stream.stop()
        await sender.close()
        await producer.stop()
