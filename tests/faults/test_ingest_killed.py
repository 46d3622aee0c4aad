"""kill -9 of the API between the claim of an idempotency key and the broker's acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg2
import pytest

from shared.kafka import ensure_topics
from shared.settings import Settings
from tests.conftest import FreshSettings
from tests.own_broker import OwnBroker
from tests.receiver import Receiver
from tests.system import API, SCHEDULER, SINK, STREAM, System, read_topic

BODY = b'{"order": 4711}'


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnBroker]:
    """A broker that may be frozen."""
    own = OwnBroker(tmp_path_factory.mktemp("kafka"))
    own.start()
    try:
        await own.ready()
        yield own
    finally:
        await own.kill()


@pytest.mark.parametrize(
    "redis", [pytest.param(True, id="with Redis"), pytest.param(False, id="without Redis", marks=pytest.mark.long_form)]
)
async def test_a_kill_between_claim_and_ack_loses_nothing_and_the_repeat_is_the_same_event(
    fresh_settings: FreshSettings, tmp_path: Path, broker: OwnBroker, redis: bool
) -> None:
    overrides = {} if redis else {"redis_url": ""}
    settings = fresh_settings(
        kafka_bootstrap_servers=broker.bootstrap_servers, partitions=2, data_dir=tmp_path, **overrides
    )
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings, only=(API, STREAM, SCHEDULER, SINK)) as system:
        created = await system.subscribe(f"{receiver.url}/hook")
        key = {"Idempotency-Key": str(uuid.uuid4())}

        await broker.halt(signal.SIGSTOP)
        lost = asyncio.create_task(post(system, created["id"], key))
        await until_claimed(settings)
        assert not lost.done()
        system.kill(API)
        await system.ended(API)
        with contextlib.suppress(httpx.HTTPError):
            await lost
        broker.go_on(signal.SIGSTOP)

        system.start(API)
        await system.ready(API)
        answers = await asyncio.gather(*(post(system, created["id"], key) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {202}
        [webhook_id] = {answer.json()["webhook_id"] for answer in answers}
        await system.status_when(webhook_id, "succeeded")

        records = await read_topic(settings, settings.topics.deliveries)
        assert {dict(record.headers)["webhook-id"].decode() for record in records} == {webhook_id}
        assert {(arrival.headers["webhook-id"], arrival.body) for arrival in receiver.arrivals} == {(webhook_id, BODY)}
        assert query(settings, "select count(*) from deliveries") == 1
        assert query(settings, "select webhook_id from idempotency_keys where confirmed") == webhook_id
        print(f"{len(records)} record(s), {len(receiver.arrivals)} arrival(s), one event")


async def post(system: System, subscription_id: str, key: dict[str, str]) -> httpx.Response:
    return await system.api.post(f"/ingest/{subscription_id}", content=BODY, headers=key)


async def until_claimed(settings: Settings) -> None:
    """The key is in Postgres: the API has gone on to produce."""
    async with asyncio.timeout(10):
        while query(settings, "select count(*) from idempotency_keys where not confirmed") != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)


def query(settings: Settings, statement: str) -> object:
    """The one value."""
    connection = psycopg2.connect(settings.database_url.get_secret_value())
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row[0] if row else None
    finally:
        connection.close()
