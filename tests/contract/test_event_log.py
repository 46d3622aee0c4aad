"""Events of `events` in the attempt log: rows, their deliveries, how fresh the answers are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from delivery_stream.sink_batch import Batch
from shared.attempt_log import AttemptLog, LoggedEvent
from shared.attempt_records import Attempt, FannedOut
from shared.attempt_rows import Progress, row_of_attempt, row_of_delivery, row_of_event, row_of_fan_out
from shared.attempt_writer import AttemptWriter
from shared.clock import SystemClock, to_datetime
from shared.database import Database
from shared.kafka import Producer
from shared.record_ids import new_webhook_id
from shared.records import Event, Record, Source
from shared.settings import Settings
from tests.contract.test_attempt_sink import attempt_log, database, producer, running
from tests.eventually import eventually

__all__ = ["attempt_log", "database", "producer"]  # fixtures


@pytest.fixture
def settings(fresh_settings: Callable[..., Settings]) -> Settings:
    return fresh_settings(ack_timeout_seconds=0.2)


def an_event() -> Event:
    return Event(new_webhook_id(), b"{}", SystemClock().now_ms(), event_type="order.paid", tenant="acme")


def fan_out_of(event: Event, matched: int) -> FannedOut:
    kind: Any = "fanned_out" if matched else "unmatched"
    return FannedOut(kind, event.id, event.tenant, event.event_type, event.accepted_ms, event.accepted_ms + 7, matched)


def attempt_at(event: Event, subscription_id: str, outcome: Any) -> Attempt:
    delivery = event.delivery_to(subscription_id)
    return Attempt(
        kind="attempt",
        webhook_id=delivery.webhook_id,
        subscription_id=subscription_id,
        run=1,
        attempt=1,
        accepted_ms=event.accepted_ms,
        attempted_ms=event.accepted_ms + 9,
        outcome=outcome,
        event_id=event.id,
    )


async def test_an_event_is_a_row_from_its_topic_on_and_knows_its_deliveries(
    topics_ready: Settings, producer: Producer, attempt_log: AttemptLog
) -> None:
    topics, event = topics_ready.topics, an_event()
    ids = [new_webhook_id() for _ in range(120)]

    async def stands(condition: Callable[[LoggedEvent], bool]) -> LoggedEvent:
        async def there() -> LoggedEvent | None:
            found = await asyncio.to_thread(attempt_log.event, event.id)
            return found if found and condition(found) else None

        found: LoggedEvent = await eventually(there, within_s=30)
        return found

    async with running(topics_ready, producer):
        source = await producer.send(event.to_record(topics.events))
        accepted = await stands(lambda found: True)
        assert (accepted.matched, accepted.deliveries, accepted.counts) == (None, (), {})
        assert (accepted.tenant, accepted.event_type, accepted.source) == ("acme", "order.paid", str(source))
        assert accepted.accepted_at == to_datetime(event.accepted_ms)

        # Twice, as after a crash.
        for _ in range(2):
            await producer.send_all([event.delivery_to(one).to_record(topics.deliveries) for one in ids])
        await producer.send_all(
            [attempt_at(event, ids[0], "succeeded").to_record(topics.attempts)]
            + [attempt_at(event, one, "failed_attempt").to_record(topics.attempts) for one in ids[1:3]]
            + [fan_out_of(event, len(ids)).to_record(topics.attempts)]
        )
        found = await stands(lambda found: found.matched is not None and sum(found.counts.values()) == 120)
        assert await stands(lambda found: dict(found.counts) == {"queued": 117, "retrying": 2, "succeeded": 1})
    assert found.matched == 120
    assert len(found.deliveries) == 100
    assert {one.subscription_id for one in found.deliveries} <= set(ids)
    assert [one.id for one in found.deliveries] == sorted(one.id for one in found.deliveries)


async def test_an_event_record_nobody_can_read_is_left_to_the_stream(topics_ready: Settings) -> None:
    topics = topics_ready.topics
    batch = Batch(topics)
    record: Any = type("R", (), {"topic": topics.events, "partition": 0, "offset": 3, "headers": (), "timestamp": 1})()
    record.key, record.value = b"k", None
    batch.add(record, [record])
    assert [reason for _, reason in batch.refused] == ["null value"]
    assert list(batch.dead_letters(1)) == []


def test_in_any_order_the_later_state_stands(database: Database, attempt_log: AttemptLog) -> None:
    writer, event = AttemptWriter(database), an_event()
    accepted, done = row_of_event(event, Source("e", 0, 5)), row_of_fan_out(fan_out_of(event, 0), Source("a", 0, 1))
    for rows in ([done], [accepted], [accepted, done], [done, accepted]):
        writer.write_batch(rows, [])
        found = attempt_log.event(event.id)
        assert found is not None
        assert (found.matched, found.fanned_out_at) == (0, to_datetime(event.accepted_ms + 7))


def test_a_delivery_keeps_its_event_whichever_record_wrote_its_row(database: Database, attempt_log: AttemptLog) -> None:
    writer, event, one = AttemptWriter(database), an_event(), new_webhook_id()
    queued = row_of_delivery(event.delivery_to(one), Source("d", 0, 1))
    assert queued is not None
    attempted = row_of_attempt(attempt_at(event, one, "succeeded"), Source("a", 0, 1))
    for rows in ([attempted], [queued], [queued, attempted]):
        writer.write_batch([row_of_event(event, Source("e", 0, 1)), *rows], [])
        found = attempt_log.event(event.id)
        assert found is not None
        assert dict(found.counts) == {"succeeded": 1}


def test_the_watermark_waits_for_events_too(database: Database, attempt_log: AttemptLog, settings: Settings) -> None:
    writer, topics = AttemptWriter(database), settings.topics
    for topic in (topics.deliveries, topics.events):
        writer.register_partitions(topic, 1)
    writer.write_batch([], [Progress(topics.deliveries, 0, 1, 5000)])
    assert attempt_log.watermark_ms() == 0
    writer.write_batch([], [Progress(topics.events, 0, 1, 3000)])
    assert attempt_log.watermark_ms() == 3000


@pytest.mark.parametrize("event_id", ["", "a\0b", "\ud800", "x" * 5000, new_webhook_id()])
def test_an_unknown_event_is_none(attempt_log: AttemptLog, event_id: str) -> None:
    assert attempt_log.event(event_id) is None


async def test_days_of_events_are_made_with_those_of_deliveries(
    topics_ready: Settings, producer: Producer, database: Database, attempt_log: AttemptLog
) -> None:
    event = an_event()
    async with running(topics_ready, producer):
        await producer.send(event.to_record(topics_ready.topics.events))
        await producer.send(Record(topics_ready.topics.attempts, b"k", b'{"kind": "fanned_out"}'))
        await eventually(lambda: attempt_log.event(event.id), within_s=30)
    with database.transaction() as connection:
        rows = connection.exec_driver_sql("select count(*) from only events_default").scalar_one()
        partitioned = connection.exec_driver_sql("select count(*) from events").scalar_one()
    assert (rows, partitioned) == (0, 1)
