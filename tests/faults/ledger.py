"""Everything there is to count, read from Kafka, Postgres and the receiver."""

from __future__ import annotations

import asyncio

import orjson

from shared.records import Source, delivery_from_record
from shared.settings import Settings
from tests.faults.bounds import Forwarded
from tests.faults.load import Load, arrived
from tests.faults.oracle import Books, Buried, Key, Logged, Standing
from tests.kafka_log import read_records
from tests.receiver import Receiver
from tests.rows import rows

_READ_WITHIN_S = 60.0
_OF_DELIVERIES = ("attempt", "waiting", "parked", "resumed", "cancelled")


async def books_of(settings: Settings, load: Load, receiver: Receiver) -> Books:
    """All of one load, when everything has come to its end."""
    logged = await read_attempts(settings)
    buried = await read_dead_letters(settings)
    standing, rows = await asyncio.to_thread(read_rows, settings)
    return Books(
        list(load.sent.values()), arrived(receiver), logged, buried, standing, rows, deleted=frozenset(load.deleted)
    )


async def read_attempts(settings: Settings) -> list[Logged]:
    """The records of `attempts` that are about deliveries, in the order of their times."""
    found = []
    for record in await read_records(settings, settings.topics.attempts, within_s=_READ_WITHIN_S):
        told = orjson.loads(record.value)
        if told["kind"] in _OF_DELIVERIES:
            key = Key(told["webhook_id"], told["run"], told["attempt"])
            outcome, reason = told.get("outcome"), told.get("reason")
            found.append(Logged(told["kind"], key, outcome, reason, record.timestamp / 1000))
    return sorted(found, key=lambda one: one.at_s)


async def read_dead_letters(settings: Settings) -> list[Buried]:
    found = []
    for record in await read_records(settings, settings.topics.dead_letter, within_s=_READ_WITHIN_S):
        headers = dict(record.headers)
        # What cannot be read has no id; it is none of ours, and so it is a stranger by its place.
        name = headers.get("webhook-id", f"{record.topic}:{record.partition}:{record.offset}".encode())
        found.append(Buried(name.decode(), headers["reason"].decode()))
    return found


async def read_deliveries(settings: Settings) -> list[Forwarded]:
    found = []
    for r in await read_records(settings, settings.topics.deliveries, within_s=_READ_WITHIN_S):
        delivery = delivery_from_record(Source(r.topic, r.partition, r.offset), r.value, r.headers, r.timestamp)
        key = Key(delivery.webhook_id, delivery.run, delivery.attempt)
        found.append(Forwarded(key, delivery.waits, r.timestamp / 1000))
    return found


def read_rows(settings: Settings) -> tuple[list[Standing], list[Key]]:
    """Where each delivery stands, and every attempt."""
    standing = [Standing(*row) for row in rows(settings, "select id, status, reason from deliveries")]
    query = "select webhook_id, run, attempt from attempts where kind = 'attempt'"
    return standing, [Key(*row) for row in rows(settings, query)]


def statuses(settings: Settings) -> dict[str, str]:
    """The tables' word on every delivery. Raises psycopg2.Error."""
    return dict(rows(settings, "select id, status from deliveries"))
