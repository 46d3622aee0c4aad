"""Records that a transaction decided on and Kafka must get: a transactional outbox in Postgres.

They are written with what they tell of, so that neither is without the other; produced after the commit, in the order
of their ids; and struck off once Kafka has them. A crash in between produces them again, byte for byte.

Blocking; everything raises StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from shared.database import Database
from shared.records import Record
from shared.tables import OutboxRow

#: Whoever has claimed records and is gone: another one takes them after this.
CLAIMED_FOR_S = 30.0
_CLAIM_MAX = 100

_table = OutboxRow.__table__  # type: ignore[attr-defined]


class Claimed(NamedTuple):
    """One record that is ours to produce, for `CLAIMED_FOR_S` seconds."""

    id: int
    record: Record


def put(connection: Connection, records: Iterable[Record]) -> None:
    """With the caller's transaction or not at all. Headers are text (docs/decisions/0002), and their key decides."""
    rows = [
        {
            "topic": record.topic,
            "key": record.key,
            "value": record.value,
            "headers": [[name, value.decode()] for name, value in record.headers],
        }
        for record in records
    ]
    if rows:
        connection.execute(insert(_table), rows)


def claim(database: Database) -> Sequence[Claimed]:
    """The oldest that nobody else has claimed, at most 100."""
    free = select(_table.c.id).where(_table.c.claimed_until <= func.clock_timestamp()).order_by(_table.c.id)
    ours = free.limit(_CLAIM_MAX).with_for_update(skip_locked=True)
    until = func.clock_timestamp() + timedelta(seconds=CLAIMED_FOR_S)
    taken = update(_table).where(_table.c.id.in_(ours)).values(claimed_until=until).returning(_table)
    with database.transaction() as connection:
        rows = connection.execute(taken).all()
    return [
        Claimed(row.id, Record(row.topic, row.key, row.value, [(name, text.encode()) for name, text in row.headers]))
        for row in sorted(rows, key=lambda row: row.id)
    ]


def strike_off(database: Database, ids: Sequence[int]) -> None:
    """Kafka has them."""
    with database.transaction() as connection:
        connection.execute(delete(_table).where(_table.c.id.in_(ids)))
