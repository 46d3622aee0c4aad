"""The days of the attempt log: partitions made ahead, and dropped when they are old."""

# ruff: noqa: S608 - the names in these statements are constants of this file

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

from shared.database import Database
from shared.tables import LOCK_PARTITIONS

_PARTITIONED = {"deliveries": "with (fillfactor = 80)", "attempts": "", "events": ""}
_NAME = re.compile(r"(deliveries|attempts|events)_(\d{8})")
_DAYS_AHEAD = 3
_DELETE_AT_ONCE = 10_000


class LogPartitions:
    """Blocking. Everything here raises StoreUnavailable when Postgres is out of reach."""

    def __init__(self, database: Database, retention_days: int) -> None:
        self._database = database
        self._retention = timedelta(days=retention_days)
        self._there: set[date] = set()

    def ensure(self, days: Iterable[date], today: date) -> None:
        """A partition for each of these days, today and three more; days out of reason stay in the default one."""
        wanted = {today + timedelta(days=ahead) for ahead in range(_DAYS_AHEAD + 1)}
        wanted |= {day for day in days if today - self._retention <= day <= today + timedelta(days=_DAYS_AHEAD)}
        for day in sorted(wanted - self._there):
            for table in _PARTITIONED:
                with self._database.transaction() as connection:
                    _create(connection, table, day)
            self._there.add(day)

    def drop_old(self, today: date) -> list[str]:
        """Drop the days before the retention, and what the default partitions hold of them; the names dropped."""
        oldest = today - self._retention
        with self._database.transaction() as connection:
            old = [name for name, day in _partitions(connection) if day < oldest]
        for name in old:
            with self._database.transaction() as connection:
                connection.execute(text(f"drop table if exists {name}"))
        for table in _PARTITIONED:
            self._empty_default(table, oldest)
        self._there = {day for day in self._there if day >= oldest}
        return old

    def _empty_default(self, table: str, oldest: date) -> None:
        some = f"select ctid from {table}_default where accepted_at < :oldest limit {_DELETE_AT_ONCE}"
        delete = text(f"delete from {table}_default where ctid = any(array({some}))")
        deleted = _DELETE_AT_ONCE
        while deleted == _DELETE_AT_ONCE:
            with self._database.transaction() as connection:
                deleted = connection.execute(delete, {"oldest": _midnight(oldest)}).rowcount


def _create(connection: Connection, table: str, day: date) -> None:
    """Rows of that day which are in the default partition move; Postgres would refuse to make it otherwise."""
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK_PARTITIONS})
    name = f"{table}_{day:%Y%m%d}"
    if connection.execute(text("select to_regclass(:name)"), {"name": name}).scalar_one() is not None:
        return
    start, end = _midnight(day).isoformat(), _midnight(day + timedelta(days=1)).isoformat()
    of_that_day = f"accepted_at >= '{start}' and accepted_at < '{end}'"
    for statement in (
        # Nobody adds a row of that day to the default partition meanwhile.
        f"lock table {table} in access exclusive mode",
        f"create temporary table moved on commit drop as select * from {table}_default where {of_that_day}",
        f"delete from {table}_default where {of_that_day}",
        f"create table {name} partition of {table} for values from ('{start}') to ('{end}') {_PARTITIONED[table]}",
        f"insert into {table} select * from moved",
    ):
        connection.exec_driver_sql(statement)


def _partitions(connection: Connection) -> list[tuple[str, date]]:
    children = text(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent in ('deliveries'::regclass, 'attempts'::regclass, 'events'::regclass) order by 1"
    )
    names = (_NAME.fullmatch(name) for name in connection.execute(children).scalars())
    return [(match[0], datetime.strptime(match[2], "%Y%m%d").replace(tzinfo=UTC).date()) for match in names if match]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
