"""What goes wrong in real topics and tables is found: planted where nothing else is wrong."""

from __future__ import annotations

import asyncio
import signal

import psycopg2
from aiokafka import TopicPartition

from shared.kafka import Producer
from shared.records import Record
from shared.settings import Settings
from tests.eventually import eventually
from tests.faults.form import SEED
from tests.faults.trial import Trial
from tests.group_commits import committing
from tests.kafka_log import read_records
from tests.own_stack import OwnStack
from tests.system import API, STREAM


async def test_a_loss_a_missing_row_a_copy_and_an_end_by_itself_are_found_on_real_parts(own_stack: OwnStack) -> None:
    async with Trial(own_stack, await own_stack.fresh_settings(), SEED) as trial:
        settings, load = trial.settings, trial.load
        await load.burst(60)
        assert (await trial.count()).ok
        without_row, copied = load.accepted[:2]

        trial.system.kill(API, signal.SIGTERM)
        await eventually(lambda: trial.findings)
        await eventually(lambda: load.probe(1.0), within_s=20)
        async with trial.away(STREAM, how=signal.SIGTERM):
            before = len(load.accepted)
            await load.burst(20)
            skipped = load.accepted[before:]
            await skip_to_the_end(settings)
            await produce_again(settings, copied)
        await trial.receiver.wait_for(60 + (before - 60) + 1, timeout_s=30)
        await asyncio.to_thread(delete_row, settings, without_row)

        verdict = await trial.count(settles_within_s=5)
        found = {(one.what, one.who.partition(" ")[0]) for one in verdict.findings}
        print(verdict)
        assert found == {
            *(("lost", one) for one in skipped),
            ("no row", without_row),
            ("repeated for no reason", copied),
            ("ended by itself", API),
            ("not finished in time", "deliveries"),
        }
        assert verdict.lost == len(skipped) == 20


async def skip_to_the_end(settings: Settings) -> None:
    """As if the stream, which does not run, had finished everything."""
    partitions = [TopicPartition(settings.topics.deliveries, number) for number in range(settings.partitions)]
    async with committing(settings, STREAM, partitions) as consumer:
        await consumer.commit(await consumer.end_offsets(partitions))


async def produce_again(settings: Settings, webhook_id: str) -> None:
    """A second record of a delivery that has succeeded; a worker that has just been started does not remember it."""
    [found] = [
        record
        for record in await read_records(settings, settings.topics.deliveries)
        if dict(record.headers)["webhook-id"].decode() == webhook_id
    ]
    producer = Producer(settings)
    await producer.start()
    await producer.send(Record(found.topic, found.key, found.value, found.headers))
    await producer.stop()


def delete_row(settings: Settings, webhook_id: str) -> None:
    connection = psycopg2.connect(settings.database_url.get_secret_value())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("delete from attempts where webhook_id = %s", (webhook_id,))
            assert cursor.rowcount == 1
    finally:
        connection.close()
