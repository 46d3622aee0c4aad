"""Three brokers with three replicas: one may be lost and nothing is noticed; of two lost, everybody is told in time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shared.broker import client_options
from shared.errors import NotConfirmed
from shared.kafka import Producer, ensure_topics
from shared.records import Record, Source
from shared.settings import Settings
from tests.kafka_log import read_topic
from tests.own_brokers import BROKERS, OwnBrokers

_TIMEOUT_S = 2.0


async def test_one_of_three_may_be_lost_and_with_two_lost_a_send_is_not_confirmed_in_time(tmp_path: Path) -> None:
    async with await asyncio.to_thread(OwnBrokers, tmp_path) as brokers:
        settings = _settings(brokers)
        topics, topic = await ensure_topics(settings), settings.topics.deliveries
        await _assert_three_replicas(brokers, settings, [*topics, "__consumer_offsets"])
        async with producing(settings) as producer:
            sent = await _send(producer, topic, "all three", 10)
            second = brokers.controller()
            first = second % BROKERS + 1

            await brokers[first].halt(signal.SIGKILL)
            sent |= await _send(producer, topic, "two of them", 20)
            await _assert_held(settings, topic, sent)

            await brokers[second].halt(signal.SIGKILL)
            await _assert_refused_in_time(producer, topic)

            brokers[first].start()
            sent |= await _send(producer, topic, "two again", 30)
            await _assert_held(settings, topic, sent)
            assert (producer.trouble, producer.outstanding) == ("", 0)
    # All were killed, at once. The same data, and ports that are others.
    async with await asyncio.to_thread(OwnBrokers, tmp_path) as brokers:
        moved = _settings(brokers)
        assert not set(moved.kafka_bootstrap_servers.split(",")) & set(settings.kafka_bootstrap_servers.split(","))
        await _assert_held(moved, topic, sent)
        async with producing(moved) as producer:
            await _send(producer, topic, "elsewhere", 10)


def _settings(brokers: OwnBrokers) -> Settings:
    return Settings(
        _env_file=None,
        kafka_bootstrap_servers=brokers.bootstrap_servers,
        replication_factor=BROKERS,
        partitions=3,
        topic_prefix="three.",
        retry_delays=(1,),
    )


@asynccontextmanager
async def producing(settings: Settings) -> AsyncIterator[Producer]:
    """A started producer."""
    producer = Producer(settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _assert_three_replicas(brokers: OwnBrokers, settings: Settings, topics: list[str]) -> None:
    """Each of our topics and the one of the offsets; and two have to be in sync."""
    held = {name: {len(p["replicas"]) for p in await brokers.partitions(name)} for name in topics}
    assert held == {name: {BROKERS} for name in topics}
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


async def _assert_refused_in_time(producer: Producer, topic: str) -> None:
    """No send is confirmed by one broker alone, and none is left waiting."""
    began = time.monotonic()
    sends = [producer.send(record, _TIMEOUT_S) for record in _records(topic, "one alone")]
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NotConfirmed}
    assert time.monotonic() - began < _TIMEOUT_S + 1.5
    assert producer.trouble


async def _send(producer: Producer, topic: str, text: str, within_s: float) -> dict[Source, bytes]:
    """100 records, confirmed: where each stands."""
    records, began = _records(topic, text), time.monotonic()
    places = await producer.send_all(records, within_s)
    print(f"{text}: 100 confirmed after {time.monotonic() - began:.1f} s")
    return {place: record.value or b"" for place, record in zip(places, records, strict=True)}


def _records(topic: str, text: str) -> list[Record]:
    return [Record(topic, f"key-{n}".encode(), f"{text} {n}".encode()) for n in range(100)]


async def _assert_held(settings: Settings, topic: str, sent: dict[Source, bytes]) -> None:
    """All that was confirmed stands where it was said to stand."""
    held = await read_topic(settings, topic)
    assert {place: held.get(place) for place in sent} == sent
