"""What the janitor deletes on a real broker, and what it never touches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from retry_scheduler.janitor import NOTING, Janitor, StillNeeded
from shared.clock import SystemClock
from shared.errors import StoreUnavailable
from shared.kafka import Producer, client_options
from shared.records import Record
from shared.settings import Settings
from tests.group_commits import committing

STREAM, SINK, SCHEDULER = "delivery-stream", "attempt-sink", "retry-scheduler"


class StoppedClock(SystemClock):
    """Always the same wall time."""

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def now_ms(self) -> int:
        return self._at_ms


@pytest.fixture
async def filled(topics_ready: Settings) -> Settings:
    """Ten records in partition 0 of every topic."""
    producer = Producer(topics_ready)
    await producer.start()
    topics = topics_ready.topics
    names = [topics.events, topics.deliveries, topics.parked, topics.dead_letter, topics.attempts, topics.tier(1)]
    await producer.send_all([Record(name, b"k", b"v", (), 0) for name in names for _ in range(10)])
    await producer.stop()
    return topics_ready


async def commit(settings: Settings, role: str, offsets: dict[str, int]) -> None:
    """As if this role's group had finished everything below, in partition 0 of these topics."""
    partitions = {TopicPartition(topic, 0): offset for topic, offset in offsets.items()}
    async with committing(settings, role, list(partitions)) as consumer:
        await consumer.commit(partitions)


async def starts(settings: Settings, *topics: str) -> list[int]:
    consumer = AIOKafkaConsumer(**client_options(settings))
    await consumer.start()
    try:
        found = await consumer.beginning_offsets([TopicPartition(topic, 0) for topic in topics])
        return [found[TopicPartition(topic, 0)] for topic in topics]
    finally:
        await consumer.stop()


def janitor(
    settings: Settings, hours_later: float = 100, *, still_needed: StillNeeded | StoreUnavailable | None = None
) -> Janitor:
    clock = StoppedClock(SystemClock().now_ms() + int(hours_later * 3_600_000))
    return Janitor(settings, saying(still_needed or {}), clock=clock)


def saying(answer: StillNeeded | StoreUnavailable) -> Callable[[], Awaitable[StillNeeded]]:
    async def still_needed() -> StillNeeded:
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    return still_needed


async def test_what_is_done_for_all_its_owners_and_old_is_deleted(filled: Settings) -> None:
    topics = filled.topics
    await commit(filled, STREAM, {topics.events: 4, topics.deliveries: 8})
    await commit(filled, SINK, {topics.events: 7, topics.deliveries: 6, topics.attempts: 9})
    await commit(filled, SCHEDULER, {topics.tier(1): 10})
    cut = {
        (partition.topic, partition.partition): start for partition, start in (await janitor(filled).sweep()).items()
    }
    assert cut == {
        (topics.events, 0): 4,
        (topics.deliveries, 0): 6,
        (topics.attempts, 0): 9,
        (topics.tier(1), 0): 10,
    }
    assert await starts(filled, topics.events, topics.deliveries, topics.attempts, topics.tier(1)) == [4, 6, 9, 10]
    assert await starts(filled, topics.parked, topics.dead_letter) == [0, 0]
    assert await janitor(filled).sweep() == {}, "nothing is left to do"


async def test_what_one_owner_has_not_passed_stays_however_old(filled: Settings) -> None:
    """The sink's group has no offset at all, and the others none of these topics."""
    topics = filled.topics
    await commit(filled, STREAM, {topics.deliveries: 10, topics.attempts: 10, topics.parked: 10, topics.tier(1): 10})
    await commit(filled, SCHEDULER, {topics.events: 10})
    assert await janitor(filled, hours_later=1_000_000).sweep() == {}
    assert await starts(filled, topics.deliveries, topics.attempts, topics.parked, topics.tier(1)) == [0, 0, 0, 0]


async def test_what_is_done_but_young_stays(filled: Settings) -> None:
    topics = filled.topics
    await commit(filled, SCHEDULER, {topics.tier(1): 10})
    assert await janitor(filled, hours_later=filled.log_retention_hours - 0.1).sweep() == {}
    assert await starts(filled, topics.tier(1)) == [0]


async def test_what_is_parked_goes_when_it_was_noted_and_nothing_open_needs_it(filled: Settings) -> None:
    parked = filled.topics.parked
    assert await janitor(filled).sweep() == {}, "nobody has noted anything"
    await commit(filled, NOTING, {parked: 8})
    assert await janitor(filled, still_needed={(parked, 0): 0}).sweep() == {}
    assert await janitor(filled, still_needed=StoreUnavailable("away")).sweep() == {}, "nobody can tell"
    assert list((await janitor(filled, still_needed={(parked, 0): 5, (parked, 1): 0}).sweep()).values()) == [5]
    assert await starts(filled, parked) == [5]
    await janitor(filled).sweep()
    assert await starts(filled, parked) == [8], "what was not noted yet stays"


async def test_without_postgres_the_other_topics_are_swept(filled: Settings) -> None:
    await commit(filled, SCHEDULER, {filled.topics.tier(1): 10})
    await commit(filled, NOTING, {filled.topics.parked: 10})
    await janitor(filled, still_needed=StoreUnavailable("away")).sweep()
    assert await starts(filled, filled.topics.tier(1), filled.topics.parked) == [10, 0]


async def test_only_the_old_part_of_what_is_done_goes(topics_ready: Settings) -> None:
    producer = Producer(topics_ready)
    await producer.start()
    tier = topics_ready.topics.tier(1)
    await producer.send_all([Record(tier, b"k", b"old", (), 0) for _ in range(3)])
    await asyncio.sleep(0.05)  # the records' times must differ
    boundary_ms = SystemClock().now_ms()
    await producer.send_all([Record(tier, b"k", b"young", (), 0) for _ in range(3)])
    await producer.stop()
    await commit(topics_ready, SCHEDULER, {tier: 6})
    clock = StoppedClock(boundary_ms + int(topics_ready.log_retention_hours * 3_600_000))
    assert list((await Janitor(topics_ready, saying({}), clock=clock).sweep()).values()) == [3]


async def test_kafka_out_of_reach_is_tried_again(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    stop = asyncio.Event()
    running = asyncio.ensure_future(Janitor(away, saying({}), period_s=0.01).run(stop))
    async with asyncio.timeout(10):
        while sum(record.getMessage() == "sweep_failed" for record in caplog.records) < 2:  # noqa: ASYNC110  a log line sets no event
            await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(5):
        await running
