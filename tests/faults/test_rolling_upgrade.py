"""A newer schema under running processes, every one of them restarted in turn, and back again; then all is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg2
import pytest

from deploy.migrate import migrate
from shared.clock import SystemClock
from shared.kafka import Producer
from shared.record_ids import new_webhook_id
from shared.records import Delivery, Record
from tests.faults import newer_schema
from tests.faults.figures import Figures
from tests.faults.form import SEED
from tests.faults.oracle import Sent
from tests.faults.schedule import LEAVE
from tests.faults.trial import Trial
from tests.own_stack import OwnStack
from tests.system import PROGRAMS

#: What a newer process might write beside the headers that we know.
_NEW_HEADER = ("of-a-newer-version", b"1")
_NEWER_RECORDS = 12


@pytest.mark.long_form
async def test_a_newer_schema_a_rolling_restart_and_the_way_back_lose_nothing(
    own_stack: OwnStack, figures: Figures
) -> None:
    settings = await own_stack.fresh_settings()
    url = settings.database_url.get_secret_value()
    async with Trial(own_stack, settings, SEED) as trial:
        async with trial.load.running():
            await under_load(trial, lambda: newer_schema.upgrade(url))
            assert await asyncio.to_thread(columns, url) == 3
            # An older version that starts now migrates as well: it finds what it needs and changes nothing.
            assert await asyncio.to_thread(migrate, url) == newer_schema.REVISION
            await of_a_newer_process(trial)
            await rolled(trial)
            await under_load(trial, lambda: newer_schema.downgrade(url))
            assert await asyncio.to_thread(columns, url) == 0
            await rolled(trial)
            await trial.load.delete_one()
        verdict = await trial.count()
        line = f"to a newer schema and back: {2 * len(PROGRAMS)} restarts, {verdict.repeated} repeated"
        print(line, *trial.struck, verdict, sep="\n")
        figures.add(trial.struck, verdict)
        figures.say(line)
        assert verdict.ok, f"FAULTS_SEED={SEED}\n{verdict}"


async def rolled(trial: Trial) -> None:
    """Each told to stop and started, when the one before it is ready again."""
    async with trial.fault("everybody", "restart"):
        for name in PROGRAMS:
            async with trial.away(name, how=LEAVE):
                pass
            await trial.ready_after_s(name, f"{name} after its restart")


async def under_load(trial: Trial, migrate: Callable[[], None]) -> None:
    """Nobody's answer waits so long for it that it is none; the oracle counts what goes on meanwhile."""
    await asyncio.to_thread(migrate)
    assert await trial.load.probe(20)


async def of_a_newer_process(trial: Trial) -> None:
    """Records with a header that is not known: delivered, retried where they fail, and their bytes are the same."""
    load, now_ms = trial.load, SystemClock().now_ms()
    producer = Producer(trial.settings)
    await producer.start()
    try:
        for _ in range(_NEWER_RECORDS):
            number = load.next_event(may_become=1)
            body = load.sent[number].body
            subscription_id = load.endpoints[number % len(load.endpoints)]
            delivery = Delivery(new_webhook_id(), subscription_id, body, now_ms, content_type="application/json")
            record = delivery.to_record(trial.settings.topics.deliveries)
            load.sent[number] = Sent(number, body, owed={delivery.webhook_id: subscription_id})
            await producer.send(Record(record.topic, record.key, record.value, [*record.headers, _NEW_HEADER]))
    finally:
        await producer.stop()


def columns(url: str) -> int:
    """Of the newer version."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select count(*) from information_schema.columns where column_name = 'next_version'"
                " and table_name in ('deliveries', 'attempts', 'subscriptions')"
            )
            [count] = cursor.fetchone() or [0]
            return int(count)
    finally:
        connection.close()
