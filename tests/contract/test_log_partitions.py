"""The days of the attempt log in a real Postgres: made ahead, dropped when they are old, few of them read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from shared.attempt_log import AttemptLog
from shared.attempt_writer import AttemptWriter
from shared.clock import to_datetime
from shared.database import Database
from shared.log_partitions import LogPartitions
from shared.records import Delivery
from shared.settings import Settings
from tests import log_rows


@pytest.fixture
def settings(fresh_settings: Any) -> Settings:
    """Each test has tables of its own."""
    made: Settings = fresh_settings()
    return made


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


def _today() -> date:
    return datetime.now(UTC).date()


def test_days_are_made_ahead_and_take_over_what_the_default_partition_holds(
    settings: Settings, database: Database
) -> None:
    writer, log, today = AttemptWriter(database), AttemptLog(database, settings.topics), _today()
    tomorrow = log_rows.delivery(accepted_ms=log_rows.now_ms() + 86_400_000)
    absurd = log_rows.delivery(accepted_ms=253_402_300_799_999)
    writer.write_batch([log_rows.queued(tomorrow), log_rows.tried(tomorrow, 1), log_rows.queued(absurd)], [])
    assert _partition_of(database, tomorrow) == "deliveries_default"
    LogPartitions(database, 90).ensure([today - timedelta(days=2), date(9999, 12, 31), date(1970, 1, 1)], today)
    LogPartitions(database, 90).ensure([], today)
    assert _partition_of(database, tomorrow) == f"deliveries_{today + timedelta(days=1):%Y%m%d}"
    assert _partition_of(database, absurd) == "deliveries_default"
    found = log.delivery(tomorrow.webhook_id)
    assert found is not None
    assert len(found.attempts) == 1
    with database.transaction() as connection:
        names = connection.execute(text("select relname from pg_class where relname ~ '^deliveries_[0-9]+$'")).scalars()
        days = {name[-8:] for name in names}
    assert days == {f"{today + timedelta(days=n):%Y%m%d}" for n in (-2, 0, 1, 2, 3)}


def test_what_is_older_than_the_retention_is_dropped(settings: Settings, database: Database) -> None:
    writer, log, today = AttemptWriter(database), AttemptLog(database, settings.topics), _today()
    days_ago = [
        log_rows.delivery(webhook_id=f"{n} days", accepted_ms=log_rows.now_ms() - n * 86_400_000)
        for n in (0, 5, 20, 400)
    ]
    LogPartitions(database, 30).ensure([today - timedelta(days=n) for n in (5, 20)], today)
    writer.write_batch([log_rows.queued(delivery) for delivery in days_ago], [])
    dropped = LogPartitions(database, 10).drop_old(today)
    assert dropped == [f"{table}_{today - timedelta(days=20):%Y%m%d}" for table in ("attempts", "deliveries", "events")]
    assert [log.delivery(delivery.webhook_id) is not None for delivery in days_ago] == [True, True, False, False]
    assert LogPartitions(database, 10).drop_old(today) == []


def _partition_of(database: Database, delivery: Delivery) -> str:
    with database.transaction() as connection:
        query = text("select tableoid::regclass::text from deliveries where id = :id")
        return str(connection.execute(query, {"id": delivery.webhook_id}).scalar_one())


def test_a_status_look_up_reads_few_partitions(database: Database) -> None:
    """The time in our ids leaves one day, or two around midnight."""
    delivery = log_rows.delivery()
    LogPartitions(database, 90).ensure([_today() - timedelta(days=n) for n in range(10)], _today())
    AttemptWriter(database).write_batch([log_rows.queued(delivery)], [])
    at = to_datetime(delivery.accepted_ms)
    hour = timedelta(hours=1)
    query = text("explain select * from deliveries where id = :id and accepted_at between :since and :until")
    with database.transaction() as connection:
        values = {"id": delivery.webhook_id, "since": at - hour, "until": at + hour}
        plan = "\n".join(connection.execute(query, values).scalars())
    assert plan.count("Index Scan") in (1, 2)
    assert "Seq Scan" not in plan
