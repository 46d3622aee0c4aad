"""Replay jobs in Postgres: who takes the next step, and how far a job is. Blocking; all raise StoreUnavailable.

A step belongs to whoever puts the job's `next_step_at` ahead; nobody else touches the job before. A scheduler that dies
in a step leaves it to the next one after that time, from the cursor.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, delete, exists, func, select, tuple_, update

from retry_scheduler.janitor import StillNeeded
from retry_scheduler.replay_job import Cursor, Job
from shared import parking
from shared.database import Database
from shared.records import Source
from shared.tables import ReplayRangeRow, ReplayRow, SubscriptionRow

#: A step takes less; after a crash the job stands still for so long.
LEASE = timedelta(seconds=15)
_KEPT = timedelta(days=30)

_subscriptions = SubscriptionRow.__table__  # type: ignore[attr-defined]
_replays = ReplayRow.__table__  # type: ignore[attr-defined]
_ranges = ReplayRangeRow.__table__  # type: ignore[attr-defined]


class ReplayRows:
    """What the scheduler asks of Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, topic: str, found: parking.Found) -> set[str]:
        """See `parking.note`."""
        with self._database.transaction() as connection:
            return parking.note(connection, topic, found)

    def still_needed(self) -> StillNeeded:
        """By topic and partition, the first offset that something open still needs."""
        with self._database.transaction() as connection:
            return parking.least_offsets(connection)

    def claim(self) -> Job | None:
        """The job whose turn it is, ours for LEASE; None: none is due.

        Of a subscription's jobs only the first: they go one after the other.
        """
        with self._database.transaction() as connection:
            now = connection.execute(select(func.clock_timestamp())).scalar_one()
            taken = {
                "next_step_at": func.clock_timestamp() + LEASE,
                "started_at": func.coalesce(_replays.c.started_at, func.clock_timestamp()),
            }
            mine = update(_replays).where(_replays.c.id == _next_due()).values(taken).returning(_replays)
            row = connection.execute(mine).mappings().one_or_none()
            if row is None:
                return None
            here = _subscriptions.c.id == row["subscription_id"]
            wants = connection.execute(
                select(_subscriptions.c.rate_limit, _subscriptions.c.deleted_at).where(here)
            ).one_or_none()
            deleted = wants is None or wants.deleted_at is not None
            return Job(
                id=str(row["id"]),
                kind=row["kind"],
                topic=row["topic"],
                tenant=row["tenant"],
                subscription_id=str(row["subscription_id"]),
                cursor=_cursor(connection, row["id"]),
                now=now,
                rate=None if wants is None or deleted else wants.rate_limit,
                deleted=deleted,
                paced_to=row["paced_to"],
                stepped_at=row["stepped_at"],
                last_records=row["last_records"],
                last_partition=row["last_partition"],
                last_offset=row["last_offset"],
            )

    def release(self, job: Job, after: timedelta) -> None:
        """Nothing was done; the next step comes after so long."""
        here = _replays.c.id == UUID(job.id)
        with self._database.transaction() as connection:
            connection.execute(update(_replays).where(here).values(next_step_at=func.clock_timestamp() + after))

    def advance(self, job: Job, next_offset: int, published: int, last: Source | None) -> bool:
        """The cursor goes to ``next_offset``; ``last`` is where the last record published stands.

        False: another scheduler was quicker, because we took longer than LEASE; its word stands.
        """
        replay_id, cursor = UUID(job.id), job.cursor
        with self._database.transaction() as connection:
            if cursor is not None:
                where = and_(_of(replay_id, cursor), _ranges.c.next_offset == cursor.next_offset)
                moved = connection.execute(update(_ranges).where(where).values(next_offset=next_offset))
                if not moved.rowcount:
                    return False
            values: dict[str, Any] = {
                "published": _replays.c.published + published,
                "paced_to": job.paced_after(published),
                "next_step_at": func.clock_timestamp() + job.next_step_after(published),
            }
            if last is not None:
                values |= {"last_partition": last.partition, "last_offset": last.offset}
                values |= {"last_records": published, "stepped_at": func.clock_timestamp()}
            if _cursor(connection, replay_id) is None:
                values |= {"state": "done", "finished_at": func.clock_timestamp()}
            here = (_replays.c.id == replay_id, _replays.c.state.in_(parking.OPEN))
            connection.execute(update(_replays).where(*here).values(values))
        return True

    def forget_old(self) -> int:
        """Delete jobs that ended a month ago; how many."""
        with self._database.transaction() as connection:
            old = _replays.c.finished_at < func.now() - _KEPT
            return int(connection.execute(delete(_replays).where(old)).rowcount)


def _next_due() -> Any:
    mine, earlier = _replays.alias("mine"), _replays.alias("earlier")
    now = func.clock_timestamp()
    behind_another = exists().where(
        earlier.c.subscription_id == mine.c.subscription_id,
        earlier.c.kind == mine.c.kind,
        earlier.c.state.in_(parking.OPEN),
        tuple_(earlier.c.created_at, earlier.c.id) < tuple_(mine.c.created_at, mine.c.id),
    )
    due = (mine.c.state == "running", mine.c.next_step_at <= now, mine.c.not_before <= now, ~behind_another)
    first = select(mine.c.id).where(*due).order_by(mine.c.next_step_at).limit(1)
    return first.with_for_update(of=mine, skip_locked=True).scalar_subquery()


def _cursor(connection: Connection, replay_id: UUID) -> Cursor | None:
    left = (_ranges.c.replay_id == replay_id, _ranges.c.next_offset < _ranges.c.to_offset)
    first = select(_ranges).where(*left).order_by(_ranges.c.partition, _ranges.c.from_offset).limit(1)
    row = connection.execute(first).mappings().one_or_none()
    if row is None:
        return None
    return Cursor(row["partition"], row["from_offset"], row["next_offset"], row["to_offset"])


def _of(replay_id: UUID, cursor: Cursor) -> Any:
    return and_(
        _ranges.c.replay_id == replay_id,
        _ranges.c.partition == cursor.partition,
        _ranges.c.from_offset == cursor.from_offset,
    )
