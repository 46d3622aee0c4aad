"""A stream worker that no longer does its work says so, on a real broker."""

from __future__ import annotations

import asyncio

from delivery_stream.decision import Answered
from delivery_stream.sender import Post, Sender
from delivery_stream.watchdog import STANDSTILL_S
from shared.clock import SystemClock
from shared.records import Event
from shared.settings import Settings
from tests.eventually import eventually
from tests.stream_alone import OneSubscription, alone
from tests.unit.examples import subscription

#: More than one fetch gives, all of one partition.
EVENTS = 2500


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
    sender = DeafSender()
    async with alone(settings, OneSubscription(subscription()), sender) as worker:
        await worker.send_one()
        found = await eventually(worker.stream.stuck, within_s=30)
        assert list(found) == ["request"]
        assert "beyond twice its deadline" in found["request"]
        sender.let_go.set()
        await eventually(lambda: not worker.stream.stuck(), within_s=30)


async def test_records_of_which_none_is_finished_fail_liveness_fetched_or_not(topics_ready: Settings) -> None:
    subscriptions = OneSubscription(subscription())
    subscriptions.tells.clear()
    events = [Event("event", b"{}", SystemClock().now_ms())] * EVENTS
    async with alone(topics_ready, subscriptions, Sender(), waiting=events) as worker:
        stream = worker.stream
        await eventually(lambda: stream.app.lag and stream.dispatcher.unfinished, within_s=30)
        assert "progress" not in stream.stuck(), "there was no time to do it"
        worker.clock.ahead_s = STANDSTILL_S + 10
        records = stream.app.lag + stream.dispatcher.unfinished
        assert stream.stuck()["progress"].endswith(f", and {records} records wait")

        subscriptions.tells.set()
        await eventually(lambda: not stream.app.lag + stream.dispatcher.unfinished, within_s=30)
        worker.clock.ahead_s += STANDSTILL_S + 10
        assert "progress" not in stream.stuck(), "there is nothing to do"
