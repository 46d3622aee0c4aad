"""kill -9 of the stream worker in the middle of a fan-out: no delivery is lost, and one made twice is one row."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.broker import client_options
from shared.database import Database
from shared.encryption import Cipher
from shared.kafka import ensure_topics
from shared.record_ids import delivery_id
from shared.settings import Settings
from shared.subscriptions import NewSubscription, SubscriptionStore
from tests.conftest import FreshSettings
from tests.receiver import Receiver
from tests.rows import rows
from tests.system import API, SCHEDULER, SINK, STREAM, System, read_topic

EVENTS = 12
SUBSCRIPTIONS = 250
#: 200 records a chunk: an event takes two, so a kill can fall between them.
PAYLOAD_BYTES = 10_000


@pytest.mark.long_form
async def test_a_worker_killed_while_it_fans_out_loses_no_delivery(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    settings = fresh_settings(data_dir=tmp_path, max_fanout_bytes_per_second=0)
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings, only=(API, SCHEDULER, SINK)) as system:
        subscriptions = await asyncio.to_thread(subscribe, settings, receiver.url)
        events = [await post(system, number) for number in range(EVENTS)]
        expected = {delivery_id(event, one) for event in events for one in subscriptions}
        system.start(STREAM)
        written = await killed_in_the_middle(system, len(expected))
        system.start(STREAM)
        await until_all_succeeded(system, len(expected))

        arrived = Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals)
        records = Counter(
            dict(record.headers)["webhook-id"].decode()
            for record in await read_topic(settings, settings.topics.deliveries)
        )
        twice = sum(count > 1 for count in records.values())
        lost = len(expected - set(arrived))
        print(f"{len(expected)} deliveries, killed after {written}, {twice} written twice, lost {lost}")
        assert set(records) == set(arrived) == expected
        found = [(await system.api.get(f"/status/{event}")).json() for event in events]
        assert [(one["matched"], one["delivery_counts"]) for one in found] == [
            (SUBSCRIPTIONS, {"succeeded": SUBSCRIPTIONS})
        ] * EVENTS


def subscribe(settings: Settings, receiver_url: str) -> list[str]:
    database = Database(settings.database_url.get_secret_value())
    store = SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))
    new = NewSubscription(f"{receiver_url}/fan-out")
    made = [store.create(new).subscription.id for _ in range(SUBSCRIPTIONS)]
    database.close()
    return made


async def post(system: System, number: int) -> str:
    body = b"%d " % number + b"x" * PAYLOAD_BYTES
    answer = await system.api.post("/events", content=body, headers={"X-Event-Type": "load"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["event_id"])


async def killed_in_the_middle(system: System, expected: int) -> int:
    """How many deliveries were written by then: some and not all."""
    topic = system.settings.topics.deliveries
    partitions = [TopicPartition(topic, number) for number in range(system.settings.partitions)]
    consumer = AIOKafkaConsumer(**client_options(system.settings))
    await consumer.start()
    try:
        deadline = time.monotonic() + 30
        while not sum((await consumer.end_offsets(partitions)).values()):
            assert time.monotonic() < deadline, system.tail()
        system.kill(STREAM)
        await system.ended(STREAM)
        written = int(sum((await consumer.end_offsets(partitions)).values()))
    finally:
        await consumer.stop()
    assert 0 < written < expected, "the kill came in the middle"
    return written


async def until_all_succeeded(system: System, count: int) -> None:
    deadline = time.monotonic() + 90
    while True:
        found = rows(system.settings, "select status, count(*) from deliveries group by status")
        if found == [("succeeded", count)]:
            return
        assert time.monotonic() < deadline, f"{count} expected, {found}\n{system.tail()}"
        await asyncio.sleep(0.2)
