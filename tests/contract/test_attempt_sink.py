"""The attempt sink between a real Kafka and a real Postgres."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from pydantic import SecretStr
from sqlalchemy import text

from delivery_stream.attempt_sink import AttemptSink
from shared.attempt_log import AttemptLog, LoggedDelivery
from shared.attempt_records import Attempt
from shared.clock import SystemClock
from shared.database import Database
from shared.kafka import Producer, client_options
from shared.record_ids import new_webhook_id
from shared.records import Delivery, Record, Source
from shared.settings import Settings
from tests.eventually import eventually
from tests.kafka_log import read_topic
from tests.tcp_proxy import TcpProxy, tcp_proxy

_WITHIN_S = 30


@pytest.fixture
def settings(fresh_settings: Callable[..., Settings]) -> Settings:
    """The watermark stays this much behind: a test need not wait for 5 s of it."""
    return fresh_settings(ack_timeout_seconds=0.2)


@pytest.fixture
async def producer(topics_ready: Settings) -> AsyncIterator[Producer]:
    producer = Producer(topics_ready)
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
async def database(topics_ready: Settings) -> AsyncIterator[Database]:
    database = Database(topics_ready.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture
def attempt_log(database: Database, topics_ready: Settings) -> AttemptLog:
    return AttemptLog(database, topics_ready.topics)


@asynccontextmanager
async def running(settings: Settings, producer: Producer) -> AsyncIterator[AttemptSink]:
    """A sink at work; stopped at the end, and it must stop."""
    sink, stop = AttemptSink(settings, producer), asyncio.Event()
    task = asyncio.create_task(sink.run(stop))
    try:
        yield sink
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


@asynccontextmanager
async def postgres_through_proxy(settings: Settings) -> AsyncIterator[tuple[Settings, TcpProxy]]:
    url = urlsplit(settings.database_url.get_secret_value())
    async with tcp_proxy(str(url.hostname), int(url.port or 0)) as proxy:
        there = f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
        yield settings.model_copy(update={"database_url": SecretStr(url._replace(netloc=there).geturl())}), proxy


def _delivery(**changes: Any) -> Delivery:
    delivery = Delivery(new_webhook_id(), new_webhook_id(), b'{"a":1}', SystemClock().now_ms(), event_type="order.paid")
    return delivery.again(**changes)


def _attempt(delivery: Delivery, number: int = 1, outcome: Any = "succeeded") -> Attempt:
    return Attempt(
        kind="attempt",
        webhook_id=delivery.webhook_id,
        subscription_id=delivery.subscription_id,
        run=1,
        attempt=number,
        accepted_ms=delivery.accepted_ms,
        attempted_ms=delivery.accepted_ms + number,
        event_type=delivery.event_type,
        outcome=outcome,
    )


async def _stands(log: AttemptLog, delivery: Delivery, status: str) -> LoggedDelivery:
    async def there() -> LoggedDelivery | None:
        found = await asyncio.to_thread(log.delivery, delivery.webhook_id)
        return found if found and found.status == status else None

    found: LoggedDelivery = await eventually(there, within_s=_WITHIN_S)
    return found


async def _committed(settings: Settings, topic: str) -> int:
    """How many records of the topic the sink's group has committed."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(settings.topics.group("attempt-sink"))
        return sum(max(meta.offset, 0) for partition, meta in offsets.items() if partition.topic == topic)
    finally:
        await admin.close()


async def test_deliveries_are_queued_and_attempts_move_them_on(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    delivery, topics = _delivery(), topics_ready.topics
    async with running(topics_ready, producer) as sink:
        source = await producer.send(delivery.to_record(topics.deliveries))
        queued = await _stands(attempt_log, delivery, "queued")
        assert queued.source == str(source)
        await producer.send(_attempt(delivery, 1, "failed_attempt").to_record(topics.attempts))
        await _stands(attempt_log, delivery, "retrying")
        await producer.send(delivery.again(attempt=2).to_record(topics.deliveries))
        await producer.send(_attempt(delivery, 2).to_record(topics.attempts))
        done = await _stands(attempt_log, delivery, "succeeded")
        assert [one.attempt for one in done.attempts] == [1, 2]
        assert sink.troubles() == {}
    assert await _committed(topics_ready, topics.attempts) == 2
    assert await _committed(topics_ready, topics.deliveries) == 2


async def test_thousands_of_records_arrive_once_each(
    topics_ready: Settings, producer: Producer, database: Database
) -> None:
    deliveries = [_delivery() for _ in range(3000)]
    await producer.send_all([one.to_record(topics_ready.topics.deliveries) for one in deliveries])
    await producer.send_all([_attempt(one).to_record(topics_ready.topics.attempts) for one in deliveries])

    def succeeded() -> bool:
        with database.transaction() as connection:
            rows = connection.execute(text("select status, count(*) from deliveries group by 1")).all()
        return [tuple(row) for row in rows] == [("succeeded", 3000)]

    async with running(topics_ready, producer), running(topics_ready, producer):
        await eventually(lambda: asyncio.to_thread(succeeded), within_s=60)


async def test_what_cannot_be_read_or_stored_is_a_dead_letter_and_the_rest_goes_on(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog, database: Database
) -> None:
    with database.transaction() as connection:
        connection.execute(text("alter table attempts add constraint poison check (event_type <> 'poison')"))
    topics, good = topics_ready.topics, [_delivery() for _ in range(20)]
    poison = _attempt(_delivery(event_type="poison")).to_record(topics.attempts)
    unreadable = [
        Record(topics.attempts, b"k", b"no json", [("foreign", b"\xff")]),
        Record(topics.attempts, b"k", None),
        Record(topics.attempts, b"k", b'{"kind": "attempt", "webhook_id": "a\\u0000b"}'),
        Record(topics.attempts, b"k", poison.value.replace(b'"run":1', b'"run":%d' % 2**62) if poison.value else None),
        Record(topics.attempts, b"k", b'{"kind": "attempt", "run": 1}'),
        Record(topics.attempts, b"k", b"[" * 100_000),
    ]
    unknown_kind = Record(topics.attempts, b"k", b'{"kind": "from the future"}')
    # Of the stream's topic: it buries them itself.
    foreign = [Record(topics.deliveries, b"x", None), Record(topics.deliveries, b"x", b"no headers")]
    records = [_attempt(one).to_record(topics.attempts) for one in good]
    for number, bad in enumerate([poison, *unreadable, unknown_kind, *foreign]):
        records.insert(3 * number, bad)
    await producer.send_all(records)
    await _send_nothing(topics_ready, topics.attempts)
    unreadable.append(Record(topics.attempts, None, None))
    async with running(topics_ready, producer):
        for one in good:
            await _stands(attempt_log, one, "succeeded")

        async def all_buried() -> bool:
            return len(await read_topic(topics_ready, topics.dead_letter)) >= 1 + len(unreadable)

        await eventually(all_buried, within_s=_WITHIN_S)
    letters = await _letters(topics_ready)
    assert sorted(value or b"" for value, _ in letters) == sorted(r.value or b"" for r in [poison, *unreadable])
    for _, headers in letters:
        assert headers["source"].startswith(f"{topics.attempts}:")
        assert headers["reason"]
    assert [headers["reason"] for value, headers in letters if value == poison.value] == [
        "postgres refused it: SQLSTATE 23514"
    ]
    assert await _committed(topics_ready, topics.attempts) == len(records) + 1 - len(foreign)
    assert await _committed(topics_ready, topics.deliveries) == len(foreign)


async def _send_nothing(settings: Settings, topic: str) -> None:
    """A record with neither key nor value: other clients can, aiokafka only by the batch."""
    producer = AIOKafkaProducer(**client_options(settings))
    await producer.start()
    try:
        batch = producer.create_batch()
        batch.append(key=None, value=None, timestamp=None)
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


async def _letters(settings: Settings) -> list[tuple[bytes | None, dict[str, str]]]:
    consumer = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.topics.dead_letter, n) for n in range(settings.partitions)])
        ends = await consumer.end_offsets(list(consumer.assignment()))
        found: list[tuple[bytes | None, dict[str, str]]] = []
        async with asyncio.timeout(_WITHIN_S):
            while len(found) < sum(ends.values()):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [(r.value, {k: v.decode("utf-8", "replace") for k, v in r.headers}) for r in batch]
        return found
    finally:
        await consumer.stop()


async def test_without_postgres_the_sink_waits_as_a_member_and_commits_nothing(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    topics, before, after = topics_ready.topics, _delivery(), _delivery()
    async with postgres_through_proxy(topics_ready) as (settings, proxy), running(settings, producer) as sink:
        await producer.send(_attempt(before).to_record(topics.attempts))
        await _stands(attempt_log, before, "succeeded")
        await proxy.cut()
        await producer.send(_attempt(after).to_record(topics.attempts))
        await eventually(lambda: "postgres" in sink.troubles(), within_s=_WITHIN_S)
        assert await _committed(topics_ready, topics.attempts) == 1
        assert await _members(topics_ready) == 1
        assert await asyncio.to_thread(attempt_log.delivery, after.webhook_id) is None
        await proxy.open()
        await _stands(attempt_log, after, "succeeded")
        await eventually(lambda: not sink.troubles(), within_s=_WITHIN_S)

        async def both() -> bool:
            return await _committed(topics_ready, topics.attempts) == 2

        await eventually(both, within_s=_WITHIN_S)


async def test_a_commit_without_an_answer_is_told_of_and_made_good(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = _delivery()
    async with running(topics_ready, producer) as sink:
        await eventually(lambda: not sink.troubles(), within_s=_WITHIN_S)
        with monkeypatch.context() as patched:
            patched.setattr(sink._consumer, "commit", lambda _offsets: asyncio.Event().wait())
            await producer.send(delivery.to_record(topics_ready.topics.deliveries))
            await eventually(lambda: "commit" in sink.troubles().get("kafka", ""), within_s=_WITHIN_S)
            await _stands(attempt_log, delivery, "queued")
        await eventually(lambda: not sink.troubles(), within_s=_WITHIN_S)
        assert await eventually(lambda: _committed(topics_ready, topics_ready.topics.deliveries)) == 1


async def _members(settings: Settings) -> int:
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        [answer] = await admin.describe_consumer_groups([settings.topics.group("attempt-sink")])
        return len(answer.to_object()["groups"][0]["members"])
    finally:
        await admin.close()


async def test_a_sink_that_is_stopped_without_postgres_stops(topics_ready: Settings, producer: Producer) -> None:
    async with postgres_through_proxy(topics_ready) as (settings, proxy):
        await proxy.cut()
        async with running(settings, producer) as sink:
            await producer.send(_attempt(_delivery()).to_record(topics_ready.topics.attempts))
            await eventually(lambda: "refused" in sink.troubles().get("postgres", ""), within_s=_WITHIN_S)


async def test_the_watermark_moves_on_while_nothing_happens_and_stands_while_we_are_behind(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    """A record's own time moves nothing: one may claim to be of the year 9999."""
    now_ms, topics = SystemClock().now_ms, topics_ready.topics

    async def watermark() -> int:
        return await asyncio.to_thread(attempt_log.watermark_ms)

    async def passed(at_ms: int) -> bool:
        return await watermark() > at_ms

    async with postgres_through_proxy(topics_ready) as (settings, proxy), running(settings, producer):
        started_ms = now_ms()
        absurd = _delivery(accepted_ms=253_402_300_799_999)
        await producer.send(absurd.to_record(topics.deliveries))
        await _stands(attempt_log, absurd, "queued")
        assert await watermark() < now_ms()
        await eventually(lambda: passed(started_ms), within_s=_WITHIN_S)
        await proxy.cut()
        late = _delivery()
        await producer.send(late.to_record(topics.deliveries))
        assert await watermark() < late.accepted_ms
        await proxy.open()
        await eventually(lambda: passed(late.accepted_ms), within_s=_WITHIN_S)
        assert await asyncio.to_thread(attempt_log.delivery, late.webhook_id) is not None


async def test_two_sinks_move_one_watermark(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    async def passed(at_ms: int) -> bool:
        return await asyncio.to_thread(attempt_log.watermark_ms) > at_ms

    async with running(topics_ready, producer):
        async with running(topics_ready, producer):
            await eventually(lambda: _are_members(topics_ready, 2), within_s=_WITHIN_S)
            shared_ms = SystemClock().now_ms()
            await eventually(lambda: passed(shared_ms), within_s=_WITHIN_S)
        alone_ms = SystemClock().now_ms()
        await eventually(lambda: passed(alone_ms), within_s=_WITHIN_S)


async def _are_members(settings: Settings, count: int) -> bool:
    return await _members(settings) == count


async def test_records_that_were_gone_before_they_were_read_raise_an_alarm(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    topics, delivery = topics_ready.topics, _delivery()
    record = _attempt(delivery).to_record(topics.attempts)
    async with running(topics_ready, producer):
        await producer.send(record)
        await _stands(attempt_log, delivery, "succeeded")
    sources = [await producer.send(record) for _ in range(5)]
    await _delete_before(topics_ready, sources[3])
    async with running(topics_ready, producer) as sink:
        alarms = await eventually(lambda: asyncio.to_thread(attempt_log.alarms), within_s=_WITHIN_S)
        assert [(one.kind, one.position) for one in alarms] == [("records_skipped", sources[3].offset)]
        assert "records_skipped" in sink.troubles()


async def _delete_before(settings: Settings, source: Source) -> None:
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        await admin.delete_records(
            {TopicPartition(source.topic, source.partition): RecordsToDelete(before_offset=source.offset)}
        )
    finally:
        await admin.close()


async def test_the_process_works_and_ends_on_sigterm(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    delivery = _delivery()
    process = await _process(
        KAFKA_BOOTSTRAP_SERVERS=topics_ready.kafka_bootstrap_servers,
        DATABASE_URL=topics_ready.database_url.get_secret_value(),
        TOPIC_PREFIX=topics_ready.topic_prefix,
    )
    try:
        await producer.send(delivery.to_record(topics_ready.topics.deliveries))
        await _stands(attempt_log, delivery, "queued")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, stderr = await process.communicate()
        assert process.returncode == 0, stderr
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_setting_that_cannot_be_used_is_exit_2() -> None:
    process = await _process(DATABASE_URL="mysql://u:s3cret@h/x")
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert stderr.decode().splitlines() == ["DATABASE_URL: needs postgresql:// and the name of a database"]


async def _process(**environment: str) -> asyncio.subprocess.Process:
    module = (sys.executable, "-m", "delivery_stream.attempt_sink")
    env = {"PATH": os.environ["PATH"], **environment}
    return await asyncio.create_subprocess_exec(*module, env=env, stderr=asyncio.subprocess.PIPE)
