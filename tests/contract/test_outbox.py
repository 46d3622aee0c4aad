"""The outbox on a real Postgres: with its transaction or not at all, to one process at a time, until struck off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from shared import outbox
from shared.database import Database
from shared.records import Record
from shared.settings import Settings

RECORDS = [
    Record("events", b"\x00key", b"\xff\x00bytes", [("webhook-id", b"w1"), ("event-type", "käse".encode())]),
    Record("attempts", None, None, []),
    Record("attempts", b"", b"", [("twice", b"1"), ("twice", b"2")]),
]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


def put(database: Database, *records: Record) -> None:
    with database.transaction() as connection:
        outbox.put(connection, records)


def claimed(database: Database) -> list[Record]:
    return [one.record for one in outbox.claim(database)]


def test_records_come_out_as_they_went_in_and_in_order(database: Database) -> None:
    put(database, *RECORDS)
    assert claimed(database) == RECORDS


def test_nothing_is_in_it_when_the_transaction_fails_or_nothing_is_told(database: Database) -> None:
    put(database)
    with suppress(ZeroDivisionError), database.transaction() as connection:
        outbox.put(connection, RECORDS)
        raise ZeroDivisionError
    assert claimed(database) == []


def test_what_one_has_claimed_another_gets_when_the_claim_is_over(database: Database) -> None:
    put(database, *RECORDS)
    first = outbox.claim(database)
    assert claimed(database) == []
    with database.transaction() as connection:
        left = connection.execute(
            text("select min(extract(epoch from claimed_until - now())) from outbox")
        ).scalar_one()
        assert outbox.CLAIMED_FOR_S - 5 < left <= outbox.CLAIMED_FOR_S
        connection.execute(text("update outbox set claimed_until = now()"))
    assert outbox.claim(database) == first


def test_a_row_that_another_is_just_claiming_is_left_to_it(database: Database) -> None:
    put(database, *RECORDS)
    with database.transaction() as connection:
        connection.execute(text("select from outbox where topic = 'events' for update"))
        assert claimed(database) == RECORDS[1:]


def test_what_is_struck_off_is_gone_and_the_rest_stays(database: Database) -> None:
    put(database, *RECORDS)
    first, *others = outbox.claim(database)
    outbox.strike_off(database, [first.id])
    with database.transaction() as connection:
        connection.execute(text("update outbox set claimed_until = now()"))
    assert outbox.claim(database) == others


def test_a_claim_is_bounded(database: Database) -> None:
    numbered = [Record("events", None, str(number).encode()) for number in range(101)]
    put(database, *numbered)
    assert [record.value for record in claimed(database)] == [record.value for record in numbered[:100]]
    assert [record.value for record in claimed(database)] == [b"100"]
