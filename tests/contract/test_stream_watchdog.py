"""A stream worker that no longer does its work says so, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from delivery_stream.app import Stream
from delivery_stream.decision import Answered
from delivery_stream.sender import Post, Sender
from shared.clock import SystemClock
from shared.kafka import Producer
from shared.records import Record
from shared.settings import Settings
from shared.subscriptions import Absent, Found, Interest, Subscription, Unreachable
from tests.unit.examples import delivery, subscription


class OneSubscription:
    """It is known, and nobody asks a store."""

    postgres_trouble = ""

    def __init__(self, known: Subscription) -> None:
        self._found = Found(known)

    def peek(self, _subscription_id: str) -> Found | Absent | None:
        return self._found

    async def get(self, _subscription_id: str) -> Found | Absent | Unreachable:
        return self._found

    async def of_tenant(self, _tenant: str) -> Sequence[Interest]:
        return ()


class DeafSender(Sender):
    """It does not keep its deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    async def post_anew(self, post: Post) -> Answered:
        await self.let_go.wait()
        return Answered(200)


async def test_a_request_that_does_not_end_fails_liveness_with_the_reason(topics_ready: Settings) -> None:
    settings = topics_ready.model_copy(update={"webhook_delivery_timeout_seconds": 0.2})
    producer, sender = Producer(settings), DeafSender()
    await producer.start()
    stream = Stream(
        settings,
        producer=producer,
        subscriptions=OneSubscription(subscription()),
        sender=sender,
        clock=SystemClock(),
    )
    assert stream.stuck() == {}
    await stream.start()
    try:
        event = delivery(accepted_ms=SystemClock().now_ms())
        record = event.to_record(settings.topics.deliveries)
        await producer.send(Record(record.topic, record.key, record.value, record.headers), 10)
        deadline = time.monotonic() + 30
        while not (found := stream.stuck()):
            assert time.monotonic() < deadline, "nothing is stuck"
            await asyncio.sleep(0.05)
        assert list(found) == ["request"]
        assert "beyond twice its deadline" in found["request"]
        sender.let_go.set()
        while stream.stuck():
            assert time.monotonic() < deadline, "still stuck"
            await asyncio.sleep(0.05)
    finally:
        await stream.stop()
        await sender.close()
        await producer.stop()
