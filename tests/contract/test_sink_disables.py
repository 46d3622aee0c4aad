"""What endpoints answer disables their subscriptions: the sink between a real Kafka and a real Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from sqlalchemy import text

from delivery_stream import attempt_sink
from delivery_stream.attempt_sink import AttemptSink
from shared import outbox
from shared.attempt_records import Attempt, LaneState
from shared.clock import SystemClock, to_datetime
from shared.database import Database
from shared.encryption import Cipher
from shared.endpoint_states import EndpointStates
from shared.kafka import Producer
from shared.record_ids import new_webhook_id
from shared.records import Record, Source
from shared.settings import Settings
from shared.subscriptions import NewSubscription, Subscription, SubscriptionStore
from shared.tables import LOCK_SUBSCRIPTION_WRITES
from tests.eventually import eventually
from tests.system import read_topic

_WITHIN_S = 30
_HOUR_MS = 3_600_000


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
async def store(topics_ready: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(topics_ready.encryption_key.get_secret_value()))


@asynccontextmanager
async def running(settings: Settings, producer: Producer) -> AsyncIterator[AttemptSink]:
    """A sink at work, without the key that opens secrets; stopped at the end, and it must stop."""
    keyless = settings.model_copy(update={"encryption_key": ""})
    sink, stop = AttemptSink(keyless, producer), asyncio.Event()
    task = asyncio.create_task(sink.run(stop))
    try:
        yield sink
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


async def _made(store: SubscriptionStore) -> Subscription:
    new = NewSubscription("https://example.com/hook/s3cret", tenant="acme")
    return (await asyncio.to_thread(store.create, new)).subscription


def _attempt(subscription: Subscription, at_ms: int, status: int, **changes: Any) -> Attempt:
    attempt = Attempt(
        kind="attempt",
        webhook_id=new_webhook_id(),
        subscription_id=subscription.id,
        run=1,
        attempt=1,
        accepted_ms=at_ms,
        attempted_ms=at_ms,
        tenant="another's",
        outcome="succeeded" if status == 200 else "failed_attempt",
        http_status_code=status,
    )
    return replace(attempt, **changes)


def _now_ms() -> int:
    """Later than any change before it: Postgres tells microseconds."""
    return SystemClock().now_ms() + 1


async def _status(store: SubscriptionStore, subscription: Subscription) -> str:
    found = await asyncio.to_thread(store.get, subscription.id)
    assert found is not None
    return found.status


async def _becomes(store: SubscriptionStore, subscription: Subscription, status: str) -> None:
    async def there() -> bool:
        return await _status(store, subscription) == status

    await eventually(there, within_s=_WITHIN_S)


async def _told(settings: Settings) -> list[ConsumerRecord]:
    return await read_topic(settings, settings.topics.events)


async def _written(database: Database, attempt: Attempt) -> None:
    def there() -> bool:
        with database.transaction() as connection:
            found = connection.execute(
                text("select 1 from attempts where webhook_id = :id"), {"id": attempt.webhook_id}
            )
            return found.one_or_none() is not None

    await eventually(lambda: asyncio.to_thread(there), within_s=_WITHIN_S)


def _in_outbox(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.execute(text("select count(*) from outbox")).scalar_one())


def _waits_for_a_lock(database: Database) -> bool:
    with database.transaction() as connection:
        waiting = "select exists (select from pg_locks join pg_database d on d.oid = database where not granted"
        return bool(connection.execute(text(f"{waiting} and datname = current_database())")).scalar_one())


class _Interrupted:
    """A producer whose process is about to be killed: before it has sent an event, or right after."""

    def __init__(self, producer: Producer, events: str, *, sends: bool) -> None:
        self._producer, self._events, self._sends = producer, events, sends
        self.reached = asyncio.Event()

    async def send(self, record: Record, timeout_s: float | None = None) -> Source:
        if record.topic == self._events:
            if self._sends:
                await self._producer.send(record, timeout_s)
            self.reached.set()
            await asyncio.Event().wait()
        return await self._producer.send(record, timeout_s)


async def test_a_410_disables_and_the_tenant_is_told_once(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    one, other = await _made(store), await _made(store)
    attempts = topics_ready.topics.attempts
    async with running(topics_ready, producer):
        for subscription, status in ((other, 503), (one, 410), (one, 410), (other, 200)):
            await producer.send(_attempt(subscription, _now_ms(), status).to_record(attempts))
        await _becomes(store, one, "disabled")
        last = _attempt(one, _now_ms(), 410)
        await producer.send(last.to_record(attempts))
        await _written(database, last)
    assert await _status(store, other) == "active"
    [event] = await _told(topics_ready)
    headers = {name: value.decode() for name, value in event.headers}
    assert (headers["event-type"], headers["tenant"]) == ("hooklog.subscription.disabled", "acme")
    assert headers["about"] == one.id
    said = json.loads(event.value)
    assert (said["type"], said["data"]["subscription_id"]) == ("hooklog.subscription.disabled", one.id)
    [seen] = [
        body
        for record in await read_topic(topics_ready, attempts)
        if (body := json.loads(record.value))["kind"] == "disabled"
    ]
    assert (seen["subscription_id"], seen["reason"], seen["event_id"]) == (one.id, "gone", headers["webhook-id"])
    assert (said["data"]["reason"], said["data"]["target_origin"]) == ("gone", "https://example.com")
    assert b"s3cret" not in event.value
    state = (await asyncio.to_thread(EndpointStates(database).of, [one.id]))[one.id]
    assert state.disabled_reason == "gone"


async def test_nothing_but_failures_for_too_long_disables(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    settings = topics_ready.model_copy(update={"disable_after_hours": 2.0})
    one, flapping = await _made(store), await _made(store)
    with database.transaction() as connection:
        connection.execute(text("update subscriptions set updated_at = :at"), {"at": to_datetime(0)})
    since_ms = _now_ms() - 2 * _HOUR_MS
    async with running(settings, producer):
        for at_ms, status in ((since_ms - 1, 200), (since_ms, 500), (_now_ms() - 1, 500), (_now_ms(), 500)):
            await producer.send(_attempt(one, at_ms, status).to_record(settings.topics.attempts))
        for at_ms, status in ((since_ms, 500), (since_ms + 1, 200), (_now_ms(), 500)):
            await producer.send(_attempt(flapping, at_ms, status).to_record(settings.topics.attempts))
        await _becomes(store, one, "disabled")
        last = _attempt(flapping, _now_ms(), 500)
        await producer.send(last.to_record(settings.topics.attempts))
        await _written(database, last)
    assert await _status(store, flapping) == "active"
    [event] = await _told(settings)
    data = json.loads(event.value)["data"]
    assert (data["subscription_id"], data["reason"]) == (one.id, "failing")
    assert data["since"] == to_datetime(since_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(("sends", "times"), [(False, 1), (True, 2)], ids=["before it has told", "after it has told"])
async def test_a_sink_killed_once_it_has_disabled_is_finished_by_the_next_one(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database, sends: bool, times: int
) -> None:
    one, topics = await _made(store), topics_ready.topics
    interrupted = _Interrupted(producer, topics.events, sends=sends)
    killed = asyncio.create_task(AttemptSink(topics_ready, interrupted).run(asyncio.Event()))
    await producer.send(_attempt(one, _now_ms(), 410).to_record(topics.attempts))
    async with asyncio.timeout(_WITHIN_S):
        await interrupted.reached.wait()
    killed.cancel()
    await asyncio.wait([killed])
    assert await _status(store, one) == "disabled"
    with database.transaction() as connection:
        assert connection.execute(text("update outbox set claimed_until = now()")).rowcount == 2

    async def struck_off() -> bool:
        return await asyncio.to_thread(_in_outbox, database) == 0

    async with running(topics_ready, producer):
        await eventually(struck_off, within_s=_WITHIN_S)
    events = await _told(topics_ready)
    assert len(events) == times
    assert len({(event.key, event.value, event.headers) for event in events}) == 1
    kinds = [json.loads(record.value)["kind"] for record in await read_topic(topics_ready, topics.attempts)]
    assert kinds == ["attempt", "disabled"]
    after = await asyncio.to_thread(store.get, one.id)
    assert after is not None
    assert after.version == one.version + 1


async def test_however_much_there_is_to_tell_it_is_told_without_a_pause(
    topics_ready: Settings, producer: Producer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_sink, "_TELL_EVERY_S", 3600.0)
    sent = [str(number).encode() for number in range(250)]
    with database.transaction() as connection:
        outbox.put(connection, [Record(topics_ready.topics.events, b"one", value) for value in sent])

    async def all_told() -> bool:
        return [record.value for record in await _told(topics_ready)] == sent

    async with running(topics_ready, producer):
        await eventually(all_told, within_s=_WITHIN_S)


async def test_nobody_is_told_of_a_subscription_that_was_changed_before_it_could_be_disabled(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    one, topics = await _made(store), topics_ready.topics

    async def waits() -> bool:
        return await asyncio.to_thread(_waits_for_a_lock, database)

    async with running(topics_ready, producer):
        with database.transaction() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK_SUBSCRIPTION_WRITES})
            await producer.send(_attempt(one, _now_ms(), 410).to_record(topics.attempts))
            await eventually(waits, within_s=_WITHIN_S)
            changed = "update subscriptions set description = 'mended', version = nextval('subscriptions_version')"
            connection.execute(text(changed))
        last = _attempt(one, _now_ms(), 503)
        await producer.send(last.to_record(topics.attempts))
        await _written(database, last)
        assert await _status(store, one) == "active"
        assert await _told(topics_ready) == []
        assert await asyncio.to_thread(_in_outbox, database) == 0
        await producer.send(_attempt(one, _now_ms(), 410).to_record(topics.attempts))
        await _becomes(store, one, "disabled")


async def test_a_resumed_subscription_is_not_disabled_by_what_was_before(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    """The same record again, as after a crash or when the log is read anew."""
    one, topics = await _made(store), topics_ready.topics
    gone = _attempt(one, _now_ms(), 410)
    async with running(topics_ready, producer):
        await producer.send(gone.to_record(topics.attempts))
        await _becomes(store, one, "disabled")
        await asyncio.to_thread(store.set_status, one.id, "active")
        await producer.send(gone.to_record(topics.attempts))
        last = _attempt(one, gone.attempted_ms + 1, 503)
        await producer.send(last.to_record(topics.attempts))
        await _written(database, last)
        assert await _status(store, one) == "active"
        await producer.send(_attempt(one, _now_ms(), 410).to_record(topics.attempts))
        await _becomes(store, one, "disabled")
    assert len({event.key for event in await _told(topics_ready)}) == 2


async def test_what_a_lane_says_is_in_its_endpoints_row(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    one, now_ms = await _made(store), _now_ms()
    state = LaneState("breaker", one.id, "acme", "open", slow=True, changed_ms=now_ms, until_ms=now_ms + 1000)
    async with running(topics_ready, producer):
        await producer.send(state.to_record(topics_ready.topics.attempts))
        await producer.send(
            replace(state, breaker="closed", changed_ms=now_ms - 1).to_record(topics_ready.topics.attempts)
        )
        states = EndpointStates(database)
        found = await eventually(lambda: asyncio.to_thread(states.of, [one.id]), within_s=_WITHIN_S)
    assert (found[one.id].breaker, found[one.id].slow) == ("open", True)
    assert found[one.id].open_until == to_datetime(now_ms + 1000)
