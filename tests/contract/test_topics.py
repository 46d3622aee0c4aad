"""The topics as the broker keeps them, and consumers on them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shared.broker import max_batch_bytes
from shared.errors import ConfigurationError, NotConfirmed
from shared.kafka import Producer, SkipWatch, ensure_topics, max_record_bytes, new_consumer
from shared.records import Record
from shared.settings import Settings
from tests.kafka_admin import admin_of


@asynccontextmanager
async def consuming(consumer: AIOKafkaConsumer) -> AsyncIterator[AIOKafkaConsumer]:
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _configs(settings: Settings, topic: str) -> dict[str, str]:
    async with admin_of(settings) as admin:
        [response] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        [resource] = response.to_object()["resources"]
        return {entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]}


async def _produce(settings: Settings, records: list[Record]) -> None:
    producer = Producer(settings)
    await producer.start()
    try:
        await producer.send_all(records, 10)
    finally:
        await producer.stop()


async def _read(consumer: AIOKafkaConsumer, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += batch
    return found


async def test_what_is_missing_is_created_once(settings: Settings) -> None:
    names = await ensure_topics(settings)
    topics = settings.topics
    tiers = [topics.tier(delay_s) for delay_s in settings.schedule.tiers_s]
    wanted = [topics.events, topics.deliveries, *tiers, topics.parked, topics.dead_letter, topics.attempts]
    assert sorted(names) == sorted(wanted)
    assert await ensure_topics(settings) == []
    async with admin_of(settings) as admin:
        described = await admin.describe_topics(names)
    assert {len(topic["partitions"]) for topic in described} == {settings.partitions}


async def test_several_processes_may_create_the_topics_at_once(settings: Settings) -> None:
    created = await asyncio.gather(*(ensure_topics(settings) for _ in range(4)))
    names = [name for names in created for name in names]
    assert len(names) == len(set(names)) == 5 + len(settings.schedule.tiers_s)


async def test_no_queue_topic_is_emptied_by_time_or_size(topics_ready: Settings) -> None:
    topics = topics_ready.topics
    for name in (topics.events, topics.deliveries, topics.parked, topics.attempts, topics.tier(1)):
        configs = await _configs(topics_ready, name)
        assert (configs["retention.ms"], configs["retention.bytes"]) == ("-1", "-1")
        assert configs["cleanup.policy"] == "delete"
        assert configs["message.timestamp.type"] == ("LogAppendTime" if name == topics.tier(1) else "CreateTime")
        assert configs["max.message.bytes"] == str(max_batch_bytes(name, topics_ready))
        assert configs["segment.ms"] == "3600000"


async def test_dead_letters_stay_30_days_and_have_more_room(topics_ready: Settings) -> None:
    configs = await _configs(topics_ready, topics_ready.topics.dead_letter)
    assert configs["retention.ms"] == str(30 * 24 * 3600 * 1000)
    room = max_record_bytes(topics_ready.topics.dead_letter, topics_ready)
    assert room == max_record_bytes(topics_ready.topics.deliveries, topics_ready) + 64 * 1024
    assert int(configs["max.message.bytes"]) >= room


async def test_an_existing_topic_gets_room_for_larger_payloads_and_keeps_the_rest(settings: Settings) -> None:
    topic = settings.topics.deliveries
    async with admin_of(settings) as admin:
        mine = {"max.message.bytes": "2000", "segment.ms": "123456789"}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=mine)])
    assert topic not in await ensure_topics(settings)
    configs = await _configs(settings, topic)
    assert configs["max.message.bytes"] == str(max_batch_bytes(topic, settings))
    assert configs["segment.ms"] == "123456789"
    smaller = settings.model_copy(update={"max_payload_bytes": 1000})
    await ensure_topics(smaller)
    assert await _configs(settings, topic) == configs


async def test_a_replication_factor_the_brokers_cannot_give_is_a_configuration_error(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"(?i)replication"):
        await ensure_topics(settings.model_copy(update={"replication_factor": 9}))


async def test_without_a_broker_nothing_is_confirmed(settings: Settings) -> None:
    with pytest.raises(NotConfirmed, match="bootstrap"):
        await ensure_topics(settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"}))


async def test_a_consumer_starts_at_the_first_record_and_commits_nothing_by_itself(topics_ready: Settings) -> None:
    topic, group = topics_ready.topics.events, topics_ready.topics.group("readers")
    await _produce(topics_ready, [Record(topic, str(n).encode(), b"x") for n in range(20)])
    for _ in range(2):
        async with consuming(new_consumer(topics_ready, group=group, topics=[topic])) as consumer:
            assert len(await _read(consumer, 20)) == 20


async def test_a_consumer_reads_the_largest_record_there_can_be(topics_ready: Settings) -> None:
    topic = topics_ready.topics.dead_letter
    room = max_record_bytes(topic, topics_ready) - Record(topic, b"k", b"").size_bytes
    noise = b"".join(uuid.uuid4().bytes for _ in range(room // 16 + 1))[:room]
    await _produce(topics_ready, [Record(topic, b"k", noise)])
    group = topics_ready.topics.group("readers")
    async with consuming(new_consumer(topics_ready, group=group, topics=[topic])) as consumer:
        [record] = await _read(consumer, 1)
        assert record.value == noise


async def test_a_pattern_reads_every_tier_and_nothing_else(topics_ready: Settings) -> None:
    topics = topics_ready.topics
    names = [topics.tier(1), topics.tier(2), topics.deliveries]
    await _produce(topics_ready, [Record(name, b"k", name.encode()) for name in names])
    consumer = new_consumer(topics_ready, group=topics.group("scheduler"), pattern=topics.tier_pattern)
    async with consuming(consumer):
        assert {record.topic for record in await _read(consumer, 2)} == set(names[:2])
        tiers = {topics.tier(delay_s) for delay_s in topics_ready.schedule.tiers_s}
        assert {partition.topic for partition in consumer.assignment()} == tiers


async def test_records_deleted_before_they_were_read_raise_the_alarm(topics_ready: Settings) -> None:
    topic, group = topics_ready.topics.parked, topics_ready.topics.group("readers")
    partition = TopicPartition(topic, 0)
    await _produce(topics_ready, [Record(topic, None, b"x", (), 0) for _ in range(20)])
    async with consuming(new_consumer(topics_ready, group=group, topics=[topic])) as consumer:
        await _read(consumer, 20)
        await consumer.commit({partition: 5})
        watch = SkipWatch(consumer, group)
        watch.assigned({partition: await consumer.committed(partition)})
        assert await watch.alarms() == []
        async with admin_of(topics_ready) as admin:
            await admin.delete_records({partition: RecordsToDelete(before_offset=20)})
        watch.assigned({partition: await consumer.committed(partition)})
        [alarm] = await watch.alarms()
    assert (alarm.source, alarm.committed_offset, alarm.position) == (f"{topic}:0:5", 5, 20)
