"""The retry scheduler on a real broker: never early, in order, nothing lost whoever joins, leaves or dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from retry_scheduler.due import Limits
from retry_scheduler.forward import Forwarder
from shared.attempt_records import Alarm, attempt_from_json
from shared.clock import SystemClock
from shared.kafka import Producer, ensure_topics
from shared.records import Delivery, Record, Source, delivery_from_record
from shared.settings import Settings
from tests.kafka_admin import admin_of
from tests.system import SCHEDULER, System, read_topic

NOW_MS = SystemClock().now_ms


@pytest.fixture
async def producer(topics_ready: Settings) -> AsyncIterator[Producer]:
    made = Producer(topics_ready)
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def forwarding(settings: Settings, producer: Producer, **options: Any) -> AsyncIterator[Forwarder]:
    """A scheduler of this loop that is ready; it has committed and left the group afterwards."""
    forwarder, stop = Forwarder(settings, producer, **options), asyncio.Event()
    running = asyncio.ensure_future(forwarder.run(stop))
    try:
        await until(lambda: not forwarder.ready(), forwarder.ready)
        yield forwarder
    finally:
        stop.set()
        async with asyncio.timeout(15):
            await running


async def until(holds: Callable[[], bool], facts: Callable[[], object], within_s: float = 20) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110  what is asked sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"after {within_s} s: {facts()}") from None


async def found(settings: Settings, topic: str, count: int, within_s: float = 20) -> list[ConsumerRecord]:
    """The records of ``topic`` once ``count`` different ones are there."""
    records: list[ConsumerRecord] = []
    try:
        async with asyncio.timeout(within_s):
            while len({record.value for record in records}) < count:
                await asyncio.sleep(0.1)
                records = await read_topic(settings, topic)
    except TimeoutError:
        raise AssertionError(f"{topic}: {len(records)} of {count} after {within_s} s") from None
    return records


def retries(count: int, first: int = 0, **fields: Any) -> list[Delivery]:
    return [
        Delivery(f"id-{n}", f"sub-{n % 17}", f"{n}".encode(), NOW_MS(), attempt=2, **fields)
        for n in range(first, first + count)
    ]


def tier_records(settings: Settings, delay_s: int, deliveries: Sequence[Delivery]) -> list[Record]:
    return [delivery.to_record(settings.topics.tier(delay_s)) for delivery in deliveries]


def as_delivery(record: ConsumerRecord) -> Delivery:
    source = Source(record.topic, record.partition, record.offset)
    return delivery_from_record(source, record.value, record.headers, record.timestamp)


async def test_records_go_in_order_and_never_early(topics_ready: Settings, producer: Producer) -> None:
    settings, topics = topics_ready, topics_ready.topics
    async with forwarding(settings, producer):
        for first in range(0, 200, 10):
            await producer.send_all(tier_records(settings, 1, retries(10, first)))
            await producer.send_all(tier_records(settings, 2, retries(10, 1_000 + first)))
        forwarded = await found(settings, topics.deliveries, 400)
    late_ms = []
    for delay_s in (1, 2):
        waited = {record.value: record for record in await read_topic(settings, topics.tier(delay_s))}
        here = [record for record in forwarded if record.value in waited]
        late_ms += [r.timestamp - waited[r.value].timestamp - delay_s * 1000 for r in here]
        # The same key and partition count: a partition of the tier goes to the same partition of `deliveries`.
        places = [(r.partition, waited[r.value].offset) for r in here]
        for partition in range(settings.partitions):
            offsets = [offset for number, offset in places if number == partition]
            assert offsets == sorted(offsets)
    assert len(late_ms) == len(forwarded) == 400, "no repeats while nothing is killed"
    assert min(late_ms) >= 0
    one = next(as_delivery(record) for record in forwarded if record.value == b"7")
    assert one == retries(1, 7)[0].again(accepted_ms=one.accepted_ms)


async def test_a_tier_that_left_the_settings_still_drains(topics_ready: Settings, producer: Producer) -> None:
    await producer.send_all(tier_records(topics_ready, 1, retries(20)))
    async with forwarding(topics_ready.model_copy(update={"retry_delays": (2,)}), producer):
        assert len(await found(topics_ready, topics_ready.topics.deliveries, 20)) == 20


async def test_a_tier_that_appears_is_found(topics_ready: Settings, producer: Producer) -> None:
    async with forwarding(topics_ready, producer, metadata_max_age_ms=500):
        appending = {"message.timestamp.type": "LogAppendTime"}
        async with admin_of(topics_ready) as admin:
            await admin.create_topics([NewTopic(topics_ready.topics.tier(3), 2, 1, topic_configs=appending)])
        await producer.send_all(tier_records(topics_ready, 3, retries(1)))
        await found(topics_ready, topics_ready.topics.deliveries, 1)


async def test_a_not_before_beyond_its_tier_waits_on_for_the_rest(topics_ready: Settings, producer: Producer) -> None:
    not_before_ms = NOW_MS() + 2_500
    [asked] = retries(1, not_before_ms=not_before_ms)
    await producer.send_all(tier_records(topics_ready, 1, [asked]))
    async with forwarding(topics_ready, producer):
        [record] = await found(topics_ready, topics_ready.topics.deliveries, 1)
    assert record.timestamp >= not_before_ms
    assert as_delivery(record) == asked.again(waits=2, not_before_ms=None)
    assert len(await read_topic(topics_ready, topics_ready.topics.tier(1))) == 3


async def test_what_cannot_be_read_or_does_not_fit_is_dead_lettered_and_the_partition_goes_on(
    topics_ready: Settings, producer: Producer
) -> None:
    tier, dead_letter = topics_ready.topics.tier(1), topics_ready.topics.dead_letter
    large = Delivery("large", "sub", b"l" * 100_000, NOW_MS(), attempt=2)
    sources = await producer.send_all(
        [
            Record(tier, b"k", b"foreign", [("x", b"\xff")], partition=0),
            Record(tier, b"k", None, (), partition=0),
            Record(tier, b"sub", large.payload, large.headers(), partition=0),
            Record(tier, b"sub", b"good", retries(1)[0].headers(), partition=0),
        ]
    )
    # These settings take less than what is in the log already.
    async with forwarding(topics_ready.model_copy(update={"max_payload_bytes": 1_000}), producer):
        await found(topics_ready, topics_ready.topics.deliveries, 1)
        dead = await found(topics_ready, dead_letter, 3)
    facts = {dict(r.headers)["source"].decode(): (r.value, dict(r.headers)["reason"]) for r in dead}
    assert facts == {
        str(sources[0]): (b"foreign", b"no subscription-id"),
        str(sources[1]): (None, b"null value"),
        str(sources[2]): (large.payload, b"too large"),
    }


async def test_paused_partitions_keep_their_membership(
    topics_ready: Settings, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="retry_scheduler.forward")
    await producer.send_all(tier_records(topics_ready, 2, retries(40)))
    await producer.send_all(tier_records(topics_ready, 2, retries(40, 100, not_before_ms=NOW_MS() + 4_000)))
    short = {"max_poll_interval_ms": 600, "session_timeout_ms": 6_000, "heartbeat_interval_ms": 200}
    async with forwarding(topics_ready, producer, limits=Limits(ahead_ms=300), **short) as forwarder:
        consumer = forwarder._consumer
        await until(lambda: len(consumer.paused()) == topics_ready.partitions, consumer.paused)
        assert len(await found(topics_ready, topics_ready.topics.deliveries, 80)) == 80
    joined = [record for record in caplog.records if record.getMessage() == "assigned"]
    assert len(joined) == 1, "nobody left the group in seven poll intervals"


async def test_a_second_scheduler_takes_its_share_and_nothing_is_lost(
    topics_ready: Settings, producer: Producer
) -> None:
    settings, enough = topics_ready, asyncio.Event()

    async def produce() -> int:
        produced = 0
        while not enough.is_set() or produced < 1_000:
            await producer.send_all(tier_records(settings, 1, retries(5, produced)))
            await producer.send_all(tier_records(settings, 2, retries(5, produced + 5)))
            produced += 10
            await asyncio.sleep(0.03)
        return produced

    producing = asyncio.ensure_future(produce())
    async with forwarding(settings, producer) as one:
        await until(lambda: one.forwarded > 50, lambda: one.forwarded)
        async with forwarding(settings, producer) as two:
            await until(lambda: two.forwarded > 50, lambda: (one.forwarded, two.forwarded))
            enough.set()
            produced = await producing
            forwarded = await found(settings, settings.topics.deliveries, produced)
    # A revoke waits for what is in flight and commits it: none, unless the machine takes seconds for that.
    assert len(forwarded) - produced <= 200, "half a second of forwards"


async def test_killed_with_hundreds_waiting_it_forwards_every_one(
    topics_ready: Settings, producer: Producer, tmp_path: Path
) -> None:
    settings = topics_ready.model_copy(update={"data_dir": tmp_path})
    async with System(settings, only=(SCHEDULER,)) as system:
        for first in range(0, 800, 20):
            await producer.send_all(tier_records(settings, 1, retries(20, first)))
            await asyncio.sleep(0.03)
        before = await found(settings, settings.topics.deliveries, 100)
        system.kill(SCHEDULER)
        await system.ended(SCHEDULER)
        before = await read_topic(settings, settings.topics.deliveries)
        assert len(before) < 700, "hundreds still wait"
        system.start(SCHEDULER)
        forwarded = await found(settings, settings.topics.deliveries, 800, within_s=30)
        system.kill(SCHEDULER, signal.SIGTERM)
        assert await system.ended(SCHEDULER, within_s=10) == 0
    counts = Counter(record.value for record in forwarded)
    assert set(counts) == {f"{n}".encode() for n in range(800)}
    # At the worst half a second of forwards is uncommitted: the rate was about 600/s.
    assert sum(counts.values()) - 800 <= 400
    assert max(counts.values()) <= 2


async def test_records_that_were_gone_before_they_were_read_raise_an_alarm(
    topics_ready: Settings, producer: Producer
) -> None:
    settings, tier = topics_ready, topics_ready.topics.tier(1)
    await producer.send_all([Record(tier, b"s", f"{n}".encode(), retries(1, n)[0].headers(), 0) for n in range(5)])
    async with forwarding(settings, producer):
        await found(settings, settings.topics.deliveries, 5)
    await producer.send_all([Record(tier, b"s", f"{n}".encode(), retries(1, n)[0].headers(), 0) for n in range(5, 15)])
    async with admin_of(settings) as admin:
        await admin.delete_records({TopicPartition(tier, 0): RecordsToDelete(12)})
    async with forwarding(settings, producer) as forwarder:
        await until(lambda: "records_skipped" in forwarder.ready(), forwarder.ready)
        [record] = await found(settings, settings.topics.attempts, 1)
    alarm = attempt_from_json(record.value)
    assert isinstance(alarm, Alarm)
    assert (alarm.source, alarm.committed_offset, alarm.position) == (f"{tier}:0:5", 5, 12)


async def test_a_tier_that_is_not_there_is_named(topics_ready: Settings, producer: Producer) -> None:
    tier = topics_ready.topics.tier(1)
    async with forwarding(topics_ready, producer) as forwarder:
        async with admin_of(topics_ready) as admin:
            await admin.delete_topics([tier])
        await until(lambda: forwarder.ready().get("kafka") == f"no topic {tier}", forwarder.ready)
        await ensure_topics(topics_ready)
        await until(lambda: not forwarder.ready(), forwarder.ready)


async def test_without_kafka_it_waits_is_not_ready_and_stops_when_asked(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1", "data_dir": tmp_path})
    system = System(away, only=())
    async with system, httpx.AsyncClient() as client:
        system.start(SCHEDULER)
        port = system._ports[SCHEDULER]
        answers: dict[str, int] = {}

        async def ask() -> None:
            while answers != {"live": 200, "ready": 503}:
                for check in ("live", "ready"):
                    try:
                        answers[check] = (await client.get(f"http://127.0.0.1:{port}/{check}")).status_code
                    except httpx.TransportError:
                        await asyncio.sleep(0.1)

        async with asyncio.timeout(20):
            await ask()
        system.kill(SCHEDULER, signal.SIGTERM)
        assert await system.ended(SCHEDULER, within_s=10) == os.EX_OK
