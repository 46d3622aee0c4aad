"""What fan-out costs, from the event in hand to everything confirmed: `python -m tests.benchmarks.fan_out`.

Reads KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL, and makes a database and topics of its own there. Prints deliveries per
second, CPU microseconds of this process per delivery, and its largest memory.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import time
import uuid
from types import SimpleNamespace
from typing import Any

import uvloop
from sqlalchemy import text

from delivery_stream.beside import BESIDE_AT_ONCE
from delivery_stream.fan_out import FanOutIO, fan_out
from deploy.migrate import migrate
from shared.clock import SystemClock
from shared.database import Database
from shared.encryption import Cipher, generate_key
from shared.kafka import Producer, ensure_topics
from shared.record_ids import new_webhook_id
from shared.records import Event
from shared.settings import Settings
from shared.subscriptions import NewSubscription, SubscriptionMap, SubscriptionStore
from tests.conftest import delete_topics

#: Subscriptions of the tenant, bytes of a payload, events.
CASES = ((1_000, 1_024, 20), (1_000, 65_536, 3), (10, 1_024, 1_000), (0, 1_024, 1_000))


async def main() -> None:
    given = Settings()
    own_database = given.database_url.get_secret_value().rpartition("/")[0] + f"/bench{uuid.uuid4().hex[:8]}"
    settings = Settings(
        topic_prefix=f"bench{uuid.uuid4().hex[:8]}.",
        database_url=own_database,
        encryption_key=generate_key(),
    )
    migrate(own_database)
    await ensure_topics(settings)
    producer, subscriptions = Producer(settings), SubscriptionMap(settings)
    await producer.start()
    await subscriptions.start()
    io = FanOutIO(subscriptions=subscriptions, publish=producer.send_all, clock=SystemClock(), topics=settings.topics)
    database = Database(own_database)
    for count, size_bytes, events in CASES:
        tenant = new_webhook_id()
        await asyncio.to_thread(_subscribe, SubscriptionStore(database, Cipher(_key(settings))), tenant, count)
        await subscriptions.of_tenant(tenant)
        await _measure(io, tenant, count, size_bytes, events)
    database.close()
    await subscriptions.stop()
    await producer.stop()
    await delete_topics(settings)
    _drop(given, own_database)


def _key(settings: Settings) -> str:
    return settings.encryption_key.get_secret_value()


def _drop(given: Settings, url: str) -> None:
    database = Database(given.database_url.get_secret_value())
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'drop database if exists "{url.rpartition("/")[2]}" with (force)'))
    database.close()


def _subscribe(store: SubscriptionStore, tenant: str, count: int) -> None:
    new = NewSubscription("https://example.com/", tenant=tenant, event_types=("order.*", "invoice.paid"))
    for _ in range(count):
        store.create(new)


async def _measure(io: FanOutIO, tenant: str, count: int, size_bytes: int, events: int) -> None:
    took_s: list[float] = []
    left = iter(range(events))

    async def handler() -> None:
        for number in left:
            record = _record(io, tenant, size_bytes, number)
            began_s = time.perf_counter()
            await fan_out(record, io)
            took_s.append(time.perf_counter() - began_s)

    await fan_out(_record(io, tenant, size_bytes, 0), io)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(handler() for _ in range(BESIDE_AT_ONCE)))
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    alone_s = await _alone(io, tenant, size_bytes)
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"1 event to {count:5}, {size_bytes:6} B: alone {alone_s * 1e3:7.1f} ms; "
        f"{events} events, {BESIDE_AT_ONCE} at once: "
        f"{events / wall_s:7.1f} events/s, {count * events / wall_s:7.0f} deliveries/s, "
        f"{cpu_s / events / max(count, 1) * 1e6:6.1f} us a delivery, p50 {statistics.median(took_s) * 1e3:.1f} ms, "
        f"at most {rss_mib:.0f} MiB\n"
    )


async def _alone(io: FanOutIO, tenant: str, size_bytes: int) -> float:
    """The median of five, one after the other."""
    took_s = []
    for number in range(5):
        record = _record(io, tenant, size_bytes, number)
        began_s = time.perf_counter()
        await fan_out(record, io)
        took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s)


def _record(io: FanOutIO, tenant: str, size_bytes: int, number: int) -> Any:
    payload = uuid.uuid4().bytes * (size_bytes // 16)
    event = Event(new_webhook_id(), payload, SystemClock().now_ms(), "order.paid", "application/json", tenant)
    record = event.to_record(io.topics.events)
    return SimpleNamespace(
        topic=record.topic,
        partition=0,
        offset=number,
        key=record.key,
        value=record.value,
        headers=record.headers,
        timestamp=0,
    )


if __name__ == "__main__":
    uvloop.run(main())
