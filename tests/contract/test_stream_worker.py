"""What a stream worker is wired from, on a real broker: when it may start, and deliveries that take a task."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from delivery_stream.app import SESSION_S
from delivery_stream.lanes import TICK_S
from delivery_stream.sender import Sender
from shared.attempt_records import Attempt, attempt_from_json
from shared.broker import SESSION_TIMEOUT_MS
from shared.settings import Settings
from tests.eventually import eventually
from tests.kafka_log import read_topic
from tests.receiver import Answer, Receiver
from tests.stream_alone import OneSubscription, alone
from tests.unit.examples import subscription

SECRET = "a secret that is long enough"


def test_a_session_is_as_long_for_the_worker_as_for_its_group() -> None:
    assert SESSION_S * 1000 == SESSION_TIMEOUT_MS


def to_loopback() -> Sender:
    return Sender([ip_network("127.0.0.0/8")])


async def test_who_is_not_heard_of_by_its_group_for_a_session_starts_no_request(topics_ready: Settings) -> None:
    async with Receiver() as receiver:
        known = OneSubscription(subscription(target_url=receiver.url))
        async with alone(topics_ready, known, to_loopback()) as worker:
            await eventually(lambda: worker.stream.dispatcher.joined, within_s=30)
            worker.clock.ahead_s = SESSION_S
            await worker.send_one()
            await eventually(lambda: worker.stream.dispatcher.unfinished or receiver.arrivals, within_s=30)
            await asyncio.sleep(5 * TICK_S)  # it asks again each time
            assert receiver.arrivals == []
            worker.clock.ahead_s = 0.0
            await receiver.wait_for(1)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(body=b"you said " + SECRET.encode()), (200, None, "you said ***")),
        (Answer(hold=True), (None, "timeout", None)),
    ],
    ids=["answered", "timed out"],
)
async def test_a_subscription_that_is_not_in_memory_is_delivered_to_like_any_other(
    topics_ready: Settings, answer: Answer, told: tuple[int | None, str | None, str | None]
) -> None:
    async with Receiver() as receiver:
        receiver.script_default(answer)
        one = subscription(target_url=receiver.url, headers=(("X-Key", SECRET),), timeout_seconds=0.5)
        async with alone(topics_ready, OneSubscription(one, in_memory=False), to_loopback()) as worker:
            sent = await worker.send_one()
            (arrival,) = await receiver.wait_for(1, timeout_s=30)
            (attempt,) = await eventually(lambda: attempts(topics_ready), within_s=30)
        assert (arrival.body, arrival.headers["x-key"]) == (sent.payload, SECRET)
        assert (attempt.http_status_code, attempt.error_class, attempt.response_body) == told


async def attempts(settings: Settings) -> list[Attempt]:
    told = map(attempt_from_json, (await read_topic(settings, settings.topics.attempts)).values())
    return [one for one in told if isinstance(one, Attempt)]
