"""The producer on a real broker: a place in the log for what is acknowledged, and no poison that lasts."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import MessageSizeTooLargeError, OutOfOrderSequenceNumber

from shared.errors import NotConfirmed, RecordTooLarge
from shared.kafka import Producer, client_options, ensure_topics
from shared.records import Record, Source
from shared.settings import Settings
from tests.eventually import eventually
from tests.kafka_log import read_topic
from tests.own_broker import OwnBroker

_OUTAGE_S = 30.0
_TIMEOUT_S = 3.0


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Producer]:
    """A started producer. What it leaves behind when it is stopped is a failed assertion."""
    async with nothing_left():
        producer = Producer(settings)
        await producer.start()
        try:
            yield producer
        finally:
            await _stop(producer)


async def _stop(producer: Producer) -> None:
    async with asyncio.timeout(15):
        await producer.stop()


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """No task outlives the block, and nothing in it was forgotten: an unseen exception, an unclosed connection."""
    loop, before, complaints = asyncio.get_running_loop(), asyncio.all_tasks(), list[object]()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        yield
        await asyncio.sleep(0)  # cancelled tasks end on the next turn of the loop
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert not left, left
        gc.collect()
        assert not complaints, complaints
    finally:
        loop.set_exception_handler(None)


def _record(topic: str, text: str, key: str = "one") -> Record:
    return Record(topic, key.encode(), text.encode(), (("webhook-id", b"w"),))


async def _assert_sends_work(producer: Producer, settings: Settings, topic: str) -> None:
    """100 good records: acknowledged, and each exactly once in the log, where the producer said."""
    names = [f"good-{uuid.uuid4()}" for _ in range(100)]
    places = await producer.send_all([_record(topic, name, key=name) for name in names], 10)
    log = await read_topic(settings, topic)
    assert [log[place] for place in places] == [name.encode() for name in names]
    counts = Counter(log.values())
    assert {counts[name.encode()] for name in names} == {1}
    assert producer.trouble == ""
    assert producer.outstanding == 0


async def _small_topic(settings: Settings) -> str:
    """A topic whose broker takes less than our own check lets through."""
    name = f"{settings.topic_prefix}small-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs={"max.message.bytes": "20000"})])
    finally:
        await admin.close()
    return name


async def test_a_send_returns_the_records_place_in_the_log(topics_ready: Settings) -> None:
    topic = topics_ready.topics.deliveries
    async with started(topics_ready) as producer:
        place = await producer.send(_record(topic, "first"), 10)
        assert (await read_topic(topics_ready, topic))[place] == b"first"


async def test_records_of_one_key_share_its_home_partition(topics_ready: Settings) -> None:
    async with started(topics_ready) as producer:
        records = [_record(topics_ready.topics.events, str(n), key=f"key-{n % 5}") for n in range(50)]
        places = await producer.send_all(records, 10)
        homes = {(record.key, place.partition) for record, place in zip(records, places, strict=True)}
        assert len(homes) == 5
        assert await producer.partitions(topics_ready.topics.events) == topics_ready.partitions


async def test_a_partition_that_is_named_is_used(topics_ready: Settings) -> None:
    async with started(topics_ready) as producer:
        last = topics_ready.partitions - 1
        place = await producer.send(Record(topics_ready.topics.events, None, b"here", (), last), 10)
        assert place.partition == last


async def test_a_record_over_the_limit_is_refused_before_it_is_sent(topics_ready: Settings) -> None:
    topic = topics_ready.topics.parked
    async with started(topics_ready) as producer:
        with pytest.raises(RecordTooLarge):
            await producer.send(_record(topic, "x" * (topics_ready.max_payload_bytes + 64 * 1024)), 10)
        await _assert_sends_work(producer, topics_ready, topic)
        assert len(await read_topic(topics_ready, topic)) == 100


async def test_the_largest_record_allowed_is_accepted_uncompressible_too(topics_ready: Settings) -> None:
    topic = topics_ready.topics.parked
    async with started(topics_ready) as producer:
        room = topics_ready.max_payload_bytes + 64 * 1024 - Record(topic, b"k", b"").size_bytes
        noise = b"".join(uuid.uuid4().bytes for _ in range(room // 16 + 1))[:room]
        place = await producer.send(Record(topic, b"k", noise), 10)
        assert (await read_topic(topics_ready, topic))[place] == noise


async def test_a_record_the_broker_refuses_fails_alone_and_its_neighbours_arrive(
    topics_ready: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await _small_topic(topics_ready)
    noise = b"".join(uuid.uuid4().bytes for _ in range(3000))
    async with started(topics_ready) as producer:
        await producer.send(_record(topic, "the partition has a sequence already"), 10)
        neighbours = [_record(topic, f"neighbour-{n}") for n in range(40)]
        sends = [producer.send(record, 20) for record in [*neighbours, Record(topic, b"one", noise)]]
        *places, refused = await asyncio.gather(*sends, return_exceptions=True)
        assert isinstance(refused, RecordTooLarge)
        # Once for all 41, which went together, and once for the guilty one alone.
        assert [r.message for r in caplog.records if r.name == "shared.producer"] == ["producer replaced"] * 2
        log = await read_topic(topics_ready, topic)
        assert [log[place] for place in places if isinstance(place, Source)] == [r.value for r in neighbours]
        await _assert_sends_work(producer, topics_ready, topic)
        assert noise not in log.values()


async def test_who_sends_soon_hears_of_each_record_and_of_those_refused_with_another(
    topics_ready: Settings,
) -> None:
    topic = await _small_topic(topics_ready)
    noise = b"".join(uuid.uuid4().bytes for _ in range(3000))
    heard: dict[int, bool] = {}
    async with started(topics_ready) as producer:
        await producer.send(_record(topic, "the topic is known"), 10)
        good = [_record(topic, f"good-{n}") for n in range(40)]
        assert all(producer.send_soon(record, partial(heard.__setitem__, n)) for n, record in enumerate(good))
        assert (producer.outstanding, heard) == (40, {})
        await eventually(lambda: len(heard) == 40, within_s=20)
        assert set(heard.values()) == {True}
        assert {record.value for record in good} < set((await read_topic(topics_ready, topic)).values())

        heard.clear()
        for n, record in enumerate([*good, Record(topic, b"one", noise)]):
            assert producer.send_soon(record, partial(heard.__setitem__, n))
        await eventually(lambda: len(heard) == 41, within_s=20)
        assert set(heard.values()) == {False}
        assert producer.outstanding == 0
        assert not producer.send_soon(Record(topic, b"one", b"x" * 10_000_000), partial(heard.__setitem__, -1))
        await _assert_sends_work(producer, topics_ready, topic)
        assert -1 not in heard


async def test_what_was_sent_soon_and_not_answered_hears_so_when_its_session_ends(topics_ready: Settings) -> None:
    heard: list[bool] = []
    async with nothing_left():
        producer = Producer(topics_ready)
        assert not producer.send_soon(_record(topics_ready.topics.events, "x"), heard.append), "not started"
        await producer.start()
        await producer.partitions(topics_ready.topics.events)
        session = producer._session
        assert session is not None
        assert producer.send_soon(_record(topics_ready.topics.events, "x"), heard.append)
        await session.close()
        await asyncio.sleep(0)
        assert heard == [False]
        await _stop(producer)


async def test_aiokafka_alone_stays_poisoned(topics_ready: Settings) -> None:
    """Why Producer exists. When this fails, aiokafka has learned to recover and Producer may shrink."""
    topic = await _small_topic(topics_ready)
    noise = b"".join(uuid.uuid4().bytes for _ in range(3000))
    async with AIOKafkaProducer(**client_options(topics_ready), enable_idempotence=True) as bare:
        await bare.send_and_wait(topic, b"fine", partition=0)
        with pytest.raises(MessageSizeTooLargeError):
            await bare.send_and_wait(topic, noise, partition=0)
        for _ in range(3):
            with pytest.raises(OutOfOrderSequenceNumber):
                await bare.send_and_wait(topic, b"fine", partition=0)


async def test_a_send_to_a_topic_that_is_missing_is_not_confirmed_and_harms_nothing(topics_ready: Settings) -> None:
    async with started(topics_ready) as producer:
        with pytest.raises(NotConfirmed):
            await producer.send(_record(f"{topics_ready.topic_prefix}missing", "x"), 0.5)
        await _assert_sends_work(producer, topics_ready, topics_ready.topics.events)


async def test_a_cancelled_send_leaves_nothing_behind(topics_ready: Settings) -> None:
    async with started(topics_ready) as producer:
        send = asyncio.create_task(producer.send(_record(topics_ready.topics.events, "x")))
        await asyncio.sleep(0)
        send.cancel()
        with pytest.raises(asyncio.CancelledError):
            await send
        assert producer.outstanding == 0
        await _assert_sends_work(producer, topics_ready, topics_ready.topics.events)


async def test_without_a_broker_start_and_sends_are_not_confirmed_and_stop_is_quick(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    before = asyncio.all_tasks()
    producer = Producer(nowhere)
    starting = asyncio.create_task(producer.start())
    await asyncio.sleep(0)
    with pytest.raises(NotConfirmed, match="bootstrap"):
        await producer.send(_record("any", "x"), 0.5)
    assert "KafkaConnectionError" in producer.trouble
    assert "KafkaConnectionError" in await producer.check(0.2)
    began = time.monotonic()
    await producer.stop()
    with pytest.raises(NotConfirmed):
        await starting
    assert time.monotonic() - began < 2
    assert asyncio.all_tasks() == before


# ---- a broker that is away for 30 s under load --------------------------------------------------------------------


@dataclass
class Load:
    """Writers that never pause, and what became of each record they sent."""

    producer: Producer
    topic: str
    acked: dict[str, Source] = field(default_factory=dict)
    refused_after_s: list[float] = field(default_factory=list)
    stopping: bool = False

    async def write(self, name: str, timeout_s: float | None) -> None:
        number = 0
        while not self.stopping:
            number += 1
            text, began = f"{name}-{number}", time.monotonic()
            try:
                self.acked[text] = await self.producer.send(_record(self.topic, text, key=text), timeout_s)
            except NotConfirmed:
                self.refused_after_s.append(time.monotonic() - began)
            await asyncio.sleep(0.01)  # some hundreds a second are load enough, and leave the brokers their share


async def _through_an_outage(broker: OwnBroker, how: signal.Signals) -> tuple[Settings, Load]:
    """Load, 30 s without the broker, load again; then 100 good records. Gives what was sent, the broker still up."""
    broker.start()
    await broker.ready()
    settings = Settings(
        _env_file=None,
        kafka_bootstrap_servers=broker.bootstrap_servers,
        topic_prefix="outage.",
        partitions=4,
        retry_delays=(1,),
    )
    await ensure_topics(settings)
    producer = Producer(settings)
    await producer.start()
    try:
        load = Load(producer, settings.topics.deliveries)
        async with asyncio.TaskGroup() as writers:
            for number in range(20):
                # Five of the twenty have no deadline: they must get through in the end.
                writers.create_task(load.write(f"writer-{number}", None if number < 5 else _TIMEOUT_S))
            await _until(lambda: len(load.acked) > 500)
            # SIGTERM is the one that poisons: metadata without a leader stays known, and batches expire.
            await broker.halt(how)
            await asyncio.sleep(_OUTAGE_S)
            assert producer.trouble
            broker.go_on(how)
            acked = len(load.acked)
            await _until(lambda: len(load.acked) > acked + 500)
            load.stopping = True
        await _assert_sends_work(producer, settings, settings.topics.deliveries)
        if how == signal.SIGSTOP:
            await _assert_stop_is_bounded(producer, broker, load.topic)
    finally:
        await _stop(producer)
    return settings, load


async def _assert_stop_is_bounded(producer: Producer, broker: OwnBroker, topic: str) -> None:
    """Stopped while the broker is frozen: within 10 s, and a send that would have waited for ever is not confirmed."""
    await broker.halt(signal.SIGSTOP)
    try:
        sends = [asyncio.create_task(producer.send(_record(topic, f"unsent-{n}", key=str(n)))) for n in range(50)]
        await asyncio.sleep(0.5)
        async with asyncio.timeout(10):
            await producer.stop()
        assert all(isinstance(error, NotConfirmed) for error in await asyncio.gather(*sends, return_exceptions=True))
        assert producer.outstanding == 0
    finally:
        broker.go_on(signal.SIGSTOP)


async def _until(holds: Callable[[], bool], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


_HOW = (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM)
Outages = dict[signal.Signals, tuple[Load, dict[Source, bytes]]]


@pytest.fixture(scope="module")
async def outages(tmp_path_factory: pytest.TempPathFactory) -> Outages:
    """Every way at once, on a broker each: what was sent and what is in the log."""

    async def one(folder: Path, how: signal.Signals) -> tuple[Load, dict[Source, bytes]]:
        broker = await asyncio.to_thread(OwnBroker, folder)
        try:
            settings, load = await _through_an_outage(broker, how)
            return load, await read_topic(settings, settings.topics.deliveries)
        finally:
            await broker.kill()

    async with nothing_left(), asyncio.TaskGroup() as group:
        running = {how: group.create_task(one(tmp_path_factory.mktemp(how.name), how)) for how in _HOW}
    return {how: task.result() for how, task in running.items()}


@pytest.mark.parametrize("how", _HOW, ids=[how.name for how in _HOW])
async def test_nothing_acknowledged_is_lost_and_sends_work_after_30_s_without_a_broker(
    outages: Outages, how: signal.Signals
) -> None:
    load, log = outages[how]
    assert len(load.acked) > 1000
    assert {text: log.get(place) for text, place in load.acked.items()} == {t: t.encode() for t in load.acked}
    assert load.refused_after_s, "an outage of 30 s and nobody noticed"
    assert max(load.refused_after_s) < _TIMEOUT_S + 1.5
