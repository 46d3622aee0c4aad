"""Rows into the attempt log: COPY into temporary tables, then one `insert … on conflict` per table (60,000 rows/s).

Of two rows with one key the greater stands, so writing a batch again, or batches in another order, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

import psycopg2
from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from shared.attempt_records import Alarm
from shared.attempt_rows import AttemptValues, DeliveryValues, EventValues, LogRow, Progress
from shared.clock import to_datetime
from shared.database import Database, translated
from shared.endpoint_rows import endpoints_seen
from shared.endpoint_states import Failing, write_lanes, write_seen
from shared.tables import AlarmRow, SinkProgressRow

_progress = SinkProgressRow.__table__  # type: ignore[attr-defined]

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class AttemptWriter:
    """What the attempt sink needs of Postgres. Blocking."""

    def __init__(self, database: Database, *, failing_for_s: float = 5 * 24 * 3600.0) -> None:
        """``failing_for_s``: nothing but failures for so long is told of."""
        self._database = database
        self._failing_for_s = failing_for_s

    def write_batch(self, rows: Sequence[LogRow], progress: Sequence[Progress]) -> list[Failing]:
        """All rows and how far they bring us, in one transaction. Gives whose endpoints are gone, or fail for too long.

        Raises StoreUnavailable, and ValuesRefused when a row cannot be stored; nothing is written then.
        """
        with self._database.transaction() as connection:
            _merge(connection, _EVENTS, [row.event for row in rows if row.event])
            _merge(connection, _DELIVERIES, [row.delivery for row in rows if row.delivery])
            _merge(connection, _ATTEMPTS, [row.attempt for row in rows if row.attempt])
            for row in rows:
                if row.alarm:
                    _raise_alarm(connection, row.alarm)
            # After the attempts: it looks at them where a batch tells too little.
            failing = write_seen(connection, endpoints_seen(rows), self._failing_for_s)
            write_lanes(connection, [row.lane for row in rows if row.lane])
            _advance(connection, progress)
        return failing

    def register_partitions(self, topic: str, count: int) -> None:
        """Partitions that nobody has read yet hold the watermark back; those that are gone do not."""
        rows = [
            {"topic": topic, "partition": n, "next_offset": 0, "caught_up_to": to_datetime(0), "updated_at": func.now()}
            for n in range(count)
        ]
        gone = delete(_progress).where(_progress.c.topic == topic, _progress.c.partition >= count)
        with self._database.transaction() as connection:
            connection.execute(insert(SinkProgressRow).values(rows).on_conflict_do_nothing())
            connection.execute(gone)


class _Table:
    """The SQL of one table. ``key`` identifies a row; of two rows the one with the greater ``order`` stands."""

    def __init__(self, name: str, columns: Sequence[str], key: Sequence[str], order: Sequence[str]) -> None:
        everything, keys = ", ".join(columns), ", ".join(key)
        incoming = f"incoming_{name}"
        self.create = f"create temporary table if not exists {incoming} (like {name}) on commit delete rows"
        self.copy = f"copy {incoming} ({everything}) from stdin"
        self.merge = (
            f"insert into {name} ({everything}) "  # noqa: S608 - all names are from this file
            # In the order of the key, so that two sinks never wait for each other crosswise.
            f"select distinct on ({keys}) {everything} from {incoming} "
            f"order by {keys}, {', '.join(f'{column} desc' for column in order)} "
            f"on conflict ({keys}) do update set "
            f"{', '.join(f'{column} = excluded.{column}' for column in columns if column not in key)} "
            f"where ({_of('excluded', order)}) > ({_of(name, order)})"
        )


def _of(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


_DELIVERIES = _Table(
    "deliveries",
    DeliveryValues._fields,
    key=("id", "accepted_at"),
    order=("run", "stage", "changed_at", "log_partition", "log_offset"),
)
_EVENTS = _Table(
    "events", EventValues._fields, key=("id", "accepted_at"), order=("stage", "log_partition", "log_offset")
)
_ATTEMPTS = _Table(
    "attempts",
    AttemptValues._fields,
    key=("webhook_id", "id", "accepted_at"),
    order=("finality", "attempted_at", "log_partition", "log_offset"),
)


def _merge(connection: Connection, table: _Table, rows: Sequence[tuple[Any, ...]]) -> None:
    if not rows:
        return
    connection.exec_driver_sql(table.create)
    cursor = connection.connection.cursor()
    try:
        cursor.copy_expert(table.copy, StringIO("".join(map(_line, rows))))
    except psycopg2.Error as error:
        raise translated(error) from error
    finally:
        cursor.close()
    connection.exec_driver_sql(table.merge)


def _line(row: tuple[Any, ...]) -> str:
    """One row in COPY's text format."""
    return "\t".join(map(_field, row)) + "\n"


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    if not isinstance(value, str):
        return str(value)
    return value if value.isprintable() and "\\" not in value else value.translate(_ESCAPES)


def _raise_alarm(connection: Connection, alarm: Alarm) -> None:
    values = {
        "kind": alarm.kind,
        "consumer_group": alarm.group,
        "source": alarm.source,
        "committed_offset": alarm.committed_offset,
        "position": alarm.position,
        "raised_at": to_datetime(alarm.raised_ms),
    }
    connection.execute(insert(AlarmRow).values(values).on_conflict_do_nothing())


def _advance(connection: Connection, progress: Sequence[Progress]) -> None:
    for step in sorted(progress):
        # A sink whose clock is ahead speaks of no time that has not come.
        at = func.least(to_datetime(step.caught_up_ms or 0), func.clock_timestamp())
        values = {"topic": step.topic, "partition": step.partition, "next_offset": step.next_offset}
        new = insert(SinkProgressRow).values(**values, caught_up_to=at, updated_at=func.now())
        further = {
            "next_offset": new.excluded.next_offset,
            # What was once in Postgres stays there, whoever reads the partition again.
            "caught_up_to": func.least(
                func.greatest(_progress.c.caught_up_to, new.excluded.caught_up_to), func.clock_timestamp()
            ),
            "updated_at": new.excluded.updated_at,
        }
        connection.execute(new.on_conflict_do_update(index_elements=["topic", "partition"], set_=further))
