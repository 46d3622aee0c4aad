"""Three brokers with three replicas: one may be lost and nothing is noticed; of two lost, everybody is told in time."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shared.broker import client_options
from shared.errors import NotConfirmed
from shared.kafka import Producer, ensure_topics
from shared.records import Record, Source
from shared.settings import Settings
from tests.kafka_log import read_topic
from tests.own_brokers import OwnBrokers

_TIMEOUT_S = 3.0


async def test_one_of_three_may_be_lost_and_with_two_lost_a_send_is_not_confirmed_in_time(tmp_path: Path) -> None:
    brokers = await asyncio.to_thread(OwnBrokers, tmp_path)
    async with brokers:
        settings = Settings(
            _env_file=None,
            kafka_bootstrap_servers=brokers.bootstrap_servers,
            replication_factor=3,
            partitions=3,
            topic_prefix="three.",
            retry_delays=(1,),
        )
        topics = await ensure_topics(settings)
        await brokers.until_in_sync(settings.topic_prefix)
        await _assert_three_replicas(brokers, settings, [*topics, "__consumer_offsets"])
        producer = Producer(settings)
        await producer.start()
        try:
            topic = settings.topics.deliveries
            sent = await _send(producer, topic, "all three", 10)

            first, second = _two_to_lose(brokers)
            await brokers[first].halt(signal.SIGKILL)
            sent |= await _send(producer, topic, "two", 20)
            await _assert_held(settings, topic, sent)

            await brokers[second].halt(signal.SIGKILL)
            began = time.monotonic()
            outcomes = await asyncio.gather(
                *(producer.send(record, _TIMEOUT_S) for record in _records(topic, "one")), return_exceptions=True
            )
            assert time.monotonic() - began < _TIMEOUT_S + 1.5
            assert {type(outcome) for outcome in outcomes} == {NotConfirmed}
            assert producer.trouble

            brokers[first].start()
            sent |= await _send(producer, topic, "two again", 30)
            await _assert_held(settings, topic, sent)
            assert producer.trouble == ""
            assert producer.outstanding == 0
        finally:
            await producer.stop()


def _two_to_lose(brokers: OwnBrokers) -> tuple[int, int]:
    """The controllers' leader, and one of the others."""
    first = brokers.controller()
    return first, first % 3 + 1


async def _assert_three_replicas(brokers: OwnBrokers, settings: Settings, topics: list[str]) -> None:
    held = {p["topic"]: {len(p["replicas"])} for name in topics for p in await brokers.partitions(name)}
    assert held == {name: {3} for name in topics}
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics])
    finally:
        await admin.close()
    in_sync = {
        resource["resource_name"]: entry["config_value"]
        for response in responses
        for resource in response.to_object()["resources"]
        for entry in resource["config_entries"]
        if entry["config_names"] == "min.insync.replicas"
    }
    assert in_sync == dict.fromkeys(topics, "2")


def _records(topic: str, text: str) -> list[Record]:
    return [Record(topic, f"key-{n}".encode(), f"{text} {n}".encode()) for n in range(100)]


async def _send(producer: Producer, topic: str, text: str, within_s: float) -> dict[Source, bytes]:
    """100 records, confirmed: where each stands."""
    records = _records(topic, text)
    began = time.monotonic()
    places = await producer.send_all(records, within_s)
    print(f"{text}: 100 confirmed after {time.monotonic() - began:.1f} s")
    return {place: record.value or b"" for place, record in zip(places, records, strict=True)}


async def _assert_held(settings: Settings, topic: str, sent: dict[Source, bytes]) -> None:
    """All that was confirmed stands where it was said to stand."""
    held = await read_topic(settings, topic)
    assert {place: held.get(place) for place in sent} == sent
