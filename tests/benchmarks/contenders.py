"""What the stream worker is compared with, each a process of its own: `python -m tests.benchmarks.contenders NAME …`.

- ``bare``: a loop over our sender, without Kafka, signatures and records: nothing with this sender is quicker.
- ``raw``: a plain aiokafka consumer and producer, and our sender: the same signed request and the same record of
  `attempts`, acknowledged, for each delivery; no lanes, no exact commits, no memory of repeats, no log line.
- ``raw-lean``: the same with our producer, which queues a record at half of what aiokafka's own way costs.
- ``kafka``: that one's consumer and producer alone, one ready-made record of `attempts` for each delivery: no request,
  and nothing is decoded, signed or put together.
- ``faust``: a stock Faust agent and aiohttp, the record of `attempts` by Faust's own producer, acknowledged. With
  ``concurrency``, or it would have one request under way at a time (and it does lose records that way when killed).

Settings come from the environment; the subscriptions from a JSON file, {id: {url, signing_secret}}.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import uvloop
from mode.loop import use

use("uvloop")

import faust  # noqa: E402
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # noqa: E402

from delivery_stream.decision import Answered  # noqa: E402
from delivery_stream.sender import Sender  # noqa: E402
from shared.clock import to_rfc3339  # noqa: E402
from shared.kafka import Producer, client_options  # noqa: E402
from shared.record_ids import attempt_id  # noqa: E402
from shared.records import Record  # noqa: E402
from shared.settings import Settings, load_settings  # noqa: E402
from shared.signature import decode_signing_secret, standard_signature  # noqa: E402
from tests.benchmarks.loopback import payload  # noqa: E402

_TIMEOUT_S = 10.0
#: As large as the worker's.
_RECORD_BYTES = 700


class Target(NamedTuple):
    """What a contender knows of a subscription."""

    url: str
    keys: tuple[bytes, ...]


class Work(NamedTuple):
    """What a contender is told."""

    settings: Settings
    targets: Mapping[str, Target]
    group: str
    in_flight: int
    #: Of ``bare``: how many posts.
    posts: int


async def bare(work: Work) -> None:
    """So many posts, ``in_flight`` at a time."""
    sender = Sender(work.settings.allowed_target_networks)
    urls = itertools.cycle(target.url for target in work.targets.values())
    headers = _headers("0190c2b4-e5f6-7a8b-9c0d-1e2f3a4b5c6d", "1", int(time.time()), "v1," + "x" * 44)
    left = iter(range(work.posts))

    async def one_after_the_other() -> None:
        for number in left:
            outcome = await sender.post(next(urls), headers, payload(number, 1024), _TIMEOUT_S)
            assert isinstance(outcome, Answered), outcome

    await asyncio.gather(*(one_after_the_other() for _ in range(work.in_flight)))
    await sender.close()


async def raw(work: Work) -> None:
    """Until it is killed. The producer's options are those of ours, but lz4 is at aiokafka's own level."""
    producer = AIOKafkaProducer(
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        compression_type="lz4",
        max_batch_size=128 * 1024,
        **client_options(work.settings),
    )
    await producer.start()
    await _deliver_all(work, lambda record: producer.send_and_wait(record.topic, record.value, record.key))


async def raw_lean(work: Work) -> None:
    """Until it is killed."""
    producer = Producer(work.settings)
    await producer.start()
    await _deliver_all(work, producer.send)


async def kafka(work: Work) -> None:
    """Until it is killed. Each record that is not acknowledged holds one of ``in_flight`` slots."""
    producer, consumer = Producer(work.settings), _consumer(work)
    slots, value = asyncio.Semaphore(work.in_flight), payload(0, _RECORD_BYTES)

    def told(written: bool) -> None:
        assert written
        slots.release()

    await producer.start()
    await consumer.start()
    while True:
        for records in (await consumer.getmany(timeout_ms=500, max_records=1000)).values():
            for record in records:
                await slots.acquire()
                made = Record(work.settings.topics.attempts, record.key, value)
                if not producer.send_soon(made, told):
                    await producer.send(made)
                    slots.release()


def _consumer(work: Work) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        work.settings.topics.deliveries,
        group_id=work.group,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=1024 * 1024,
        **client_options(work.settings),
    )


async def _deliver_all(work: Work, publish: Callable[[Record], Awaitable[object]]) -> None:
    sender = Sender(work.settings.allowed_target_networks)
    topics, slots, tasks = work.settings.topics, asyncio.Semaphore(work.in_flight), set()
    consumer = _consumer(work)

    async def one(record: Any) -> None:
        got = {name: value.decode() for name, value in record.headers}
        target, now_ms = work.targets[got["subscription-id"]], time.time_ns() // 1_000_000
        signature = standard_signature(target.keys, got["webhook-id"], now_ms // 1000, record.value)
        headers = _headers(got["webhook-id"], got["attempt"], now_ms // 1000, signature)
        outcome = await sender.post(target.url, headers, record.value, _TIMEOUT_S)
        assert isinstance(outcome, Answered), outcome
        what_happened = _what_happened(record, got, target.url, now_ms)
        what_happened |= _seen_by_the_sender(outcome)
        await publish(Record(topics.attempts, record.key, orjson.dumps(what_happened)))
        slots.release()

    await consumer.start()
    while True:
        for records in (await consumer.getmany(timeout_ms=500, max_records=1000)).values():
            for record in records:
                await slots.acquire()
                task = asyncio.create_task(one(record))
                tasks.add(task)
                task.add_done_callback(tasks.discard)


async def stock_faust(work: Work) -> None:
    """Until it is killed."""
    topics = work.settings.topics
    app = faust.App(
        work.group,
        broker=f"kafka://{work.settings.kafka_bootstrap_servers}",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="raw",
    )
    attempts = app.topic(topics.attempts, value_serializer="raw", key_serializer="raw")
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        @app.agent(app.topic(topics.deliveries, value_serializer="raw"), concurrency=work.in_flight)
        async def deliver(stream: Any) -> None:
            async for event in stream.events():
                record = event.message
                got = {name: value.decode() for name, value in record.headers}
                target, now_ms = work.targets[got["subscription-id"]], time.time_ns() // 1_000_000
                signature = standard_signature(target.keys, got["webhook-id"], now_ms // 1000, record.value)
                headers = _headers(got["webhook-id"], got["attempt"], now_ms // 1000, signature)
                async with session.post(
                    target.url, data=record.value, headers=headers, allow_redirects=False
                ) as answer:
                    await answer.read()
                    assert answer.status == 200
                what_happened = _what_happened(record, got, target.url, now_ms)
                what_happened["http_status_code"] = answer.status
                await (await attempts.send(key=record.key, value=orjson.dumps(what_happened)))

        await app.start()
        await app.wait_until_stopped()
        raise RuntimeError(f"Faust has stopped: {app.crash_reason!r}")


def _headers(webhook_id: str, attempt: str, now_s: int, signature: str) -> list[tuple[str, str]]:
    """Those that the stream worker sends with the same delivery."""
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", "Hooklog/0.1.0"),
        ("X-Webhook-Attempt", attempt),
        ("X-Hooklog-Hops", "1"),
        ("webhook-id", webhook_id),
        ("webhook-timestamp", str(now_s)),
        ("webhook-signature", signature),
        ("X-Webhook-Id", webhook_id),
        ("X-Event-Type", "order.paid"),
    ]


def _what_happened(record: Any, got: Mapping[str, str], url: str, now_ms: int) -> dict[str, Any]:
    return {
        "id": attempt_id(got["webhook-id"], 1, 1),
        "kind": "attempt",
        "webhook_id": got["webhook-id"],
        "subscription_id": got["subscription-id"],
        "run": 1,
        "attempt": 1,
        "accepted_at": got["accepted-at"],
        "attempted_at": to_rfc3339(now_ms),
        "tenant": got["tenant"],
        "event_type": got["event-type"],
        "target_url": url,
        "waits": 0,
        "outcome": "succeeded",
        "source": f"{record.topic}:{record.partition}:{record.offset}",
    }


def _seen_by_the_sender(outcome: Answered) -> dict[str, Any]:
    """What the worker's record tells beside that."""
    timings = outcome.timings
    steps = {
        "dns": timings.dns_ms,
        "connect": timings.connect_ms,
        "tls": timings.tls_ms,
        "first_byte": timings.first_byte_ms,
    }
    return {
        "http_status_code": outcome.status,
        "duration_ms": round(timings.total_ms, 3),
        "timings_ms": {name: round(ms, 3) for name, ms in steps.items() if ms is not None},
        "address": timings.address,
        "sent_bytes": timings.sent_bytes,
        "received_bytes": timings.received_bytes,
        "response_body": outcome.body[:500].decode("utf-8", "replace"),
    }


CONTENDERS = {"bare": bare, "raw": raw, "raw-lean": raw_lean, "kafka": kafka, "faust": stock_faust}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[*CONTENDERS])
    parser.add_argument("--subscriptions", type=Path, required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--count", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    targets = {
        subscription_id: Target(one["url"], (decode_signing_secret(one["signing_secret"]),))
        for subscription_id, one in json.loads(given.subscriptions.read_text()).items()
    }
    uvloop.run(CONTENDERS[given.name](Work(load_settings(), targets, given.group, given.in_flight, given.count)))


if __name__ == "__main__":
    main()
