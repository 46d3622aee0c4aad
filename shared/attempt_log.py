"""Questions to the attempt log: where a delivery stands, the newest attempts, how fresh the answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Select, func, select

from shared.clock import to_datetime, to_ms
from shared.database import Database
from shared.log_query import LogFilter, Position, newest_first
from shared.record_ids import uuid7_ms
from shared.tables import AlarmRow, AttemptRow, DeliveryRow, EventRow, SinkProgressRow, SubscriptionRow
from shared.topics import Topics

_attempts = AttemptRow.__table__  # type: ignore[attr-defined]
_deliveries = DeliveryRow.__table__  # type: ignore[attr-defined]
_events = EventRow.__table__  # type: ignore[attr-defined]
_alarms = AlarmRow.__table__  # type: ignore[attr-defined]
_progress = SinkProgressRow.__table__  # type: ignore[attr-defined]
_T = TypeVar("_T")

_ALARMS_MAX = 100
_ROWS_MAX = 1_000
#: Rows that are skipped are read all the same: who wants to go deeper takes `after`.
SKIP_MAX = 10_000
_ATTEMPTS_OF_ONE_MAX = 500
_DELIVERIES_OF_ONE_MAX = 100
#: An id drawn at the acceptance is never further from it than this; other ids are looked for everywhere.
_ID_TOLERANCE = timedelta(hours=1)
_EVERYTHING = LogFilter()


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """One attempt, or (``kind`` waiting, parked, cancelled) why there was none. Times are aware, UTC."""

    id: str
    webhook_id: str
    subscription_id: str
    tenant: str
    event_type: str | None
    target_url: str | None
    kind: str
    run: int
    attempt: int
    waits: int
    accepted_at: datetime
    attempted_at: datetime
    outcome: str | None
    reason: str | None
    http_status_code: int | None
    error_class: str | None
    error_details: str | None
    duration_ms: float | None
    timings_ms: Mapping[str, float] | None
    address: str | None
    next_attempt_at: datetime | None
    source: str | None
    sent_bytes: int | None
    received_bytes: int | None
    response_body: str | None


@dataclass(frozen=True, slots=True)
class LoggedDelivery:
    """Where a webhook stands, with what happened to it, the oldest first."""

    id: str
    subscription_id: str
    tenant: str
    event_type: str | None
    accepted_at: datetime
    status: str
    run: int
    #: The number of the last attempt that was made in this run; 0: none yet.
    latest_attempt: int
    reason: str | None
    next_attempt_at: datetime | None
    source: str | None
    changed_at: datetime
    attempts: tuple[LoggedAttempt, ...] = ()
    #: What was no attempt: waits, parking, cancellation.
    notes: tuple[LoggedAttempt, ...] = ()


class EventDelivery(NamedTuple):
    """One of an event's deliveries."""

    id: str
    subscription_id: str
    status: str


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event of `events`, and where its deliveries stand."""

    id: str
    tenant: str
    event_type: str | None
    accepted_at: datetime
    #: How many subscriptions wanted it; None: it is not fanned out yet.
    matched: int | None
    fanned_out_at: datetime | None
    source: str | None
    #: The first 100 by id.
    deliveries: tuple[EventDelivery, ...] = ()
    #: All of them, by status.
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedAlarm:
    """Something a person must look at."""

    kind: str
    consumer_group: str
    source: str
    committed_offset: int
    position: int
    raised_at: datetime


class AttemptLog:
    """Blocking. Everything here raises StoreUnavailable when Postgres is out of reach."""

    def __init__(self, database: Database, topics: Topics) -> None:
        self._database = database
        self._topics = topics

    def delivery(self, webhook_id: str, *, tenant: str | None = None) -> LoggedDelivery | None:
        """The delivery with its attempts (at most 500, the newest); None when Postgres knows none of this id.

        With a tenant: only that one's.
        """
        if not _is_storable(webhook_id):
            return None
        near = _near(webhook_id, _deliveries.c.accepted_at)
        found = self._delivery(webhook_id, near, tenant) if near is not None else None
        return found or self._delivery(webhook_id, None, tenant)

    def event(self, event_id: str, *, tenant: str | None = None) -> LoggedEvent | None:
        """The event with its deliveries (the first 100, and the count of each status); None: there is no such row.

        With a tenant: only that one's.
        """
        if not _is_storable(event_id):
            return None
        query = select(_events).where(_events.c.id == event_id)
        near = _near(event_id, _events.c.accepted_at)
        query = query if near is None else query.where(near)
        query = query if tenant is None else query.where(_events.c.tenant == tenant)
        with self._database.transaction() as connection:
            row = connection.execute(query.order_by(_events.c.stage.desc()).limit(1)).mappings().one_or_none()
            if row is None:
                return None
            its = (_deliveries.c.event_id == event_id, _deliveries.c.accepted_at == row["accepted_at"])
            by_status = (
                select(_deliveries.c.status, func.count().label("count")).where(*its).group_by(_deliveries.c.status)
            )
            counts = {row.status: row.count for row in connection.execute(by_status)}
            first = select(_deliveries.c.id, _deliveries.c.subscription_id, _deliveries.c.status).where(*its)
            rows = connection.execute(first.order_by(_deliveries.c.id).limit(_DELIVERIES_OF_ONE_MAX)).all()
        return _shaped(LoggedEvent, row, deliveries=tuple(EventDelivery(*one) for one in rows), counts=counts)

    def attempts_of(self, subscription_id: str, limit: int = 20) -> list[LoggedAttempt]:
        """The newest attempts of one subscription, the newest first; at most 1,000."""
        if not _is_storable(subscription_id):
            return []
        return self.newest(0, limit, LogFilter(subscription_id=subscription_id))

    def newest(
        self, skip: int = 0, limit: int = 100, wanted: LogFilter = _EVERYTHING, after: Position | None = None
    ) -> list[LoggedAttempt]:
        """The newest attempts wanted that are older than ``after``, the newest first; at most 1,000."""
        page = newest_first(wanted, after).offset(_within(skip, SKIP_MAX)).limit(_within(limit, _ROWS_MAX))
        with self._database.transaction() as connection:
            rows = connection.execute(page).mappings().all()
        return [_shaped(LoggedAttempt, row) for row in rows]

    def tables(self) -> list[str]:
        """The names of the log's tables and that of the subscriptions, as far as they are there."""
        names = [str(table.name) for table in (SubscriptionRow.__table__, _deliveries, _attempts)]  # type: ignore[attr-defined]
        with self._database.transaction() as connection:
            return [name for name in names if connection.execute(select(func.to_regclass(name))).scalar_one()]

    def watermark_ms(self) -> int:
        """Every delivery and event accepted before this is in Postgres; 0 when the sink never said so."""
        accepted = (self._topics.deliveries, self._topics.events)
        least = select(func.min(_progress.c.caught_up_to)).where(_progress.c.topic.in_(accepted))
        with self._database.transaction() as connection:
            caught_up_to = connection.execute(least).scalar_one()
        return 0 if caught_up_to is None else to_ms(caught_up_to)

    def alarms(self) -> list[LoggedAlarm]:
        """Those nobody has acknowledged, the newest first; at most 100."""
        query = select(_alarms).where(_alarms.c.acknowledged_at.is_(None))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(_alarms.c.raised_at.desc()).limit(_ALARMS_MAX)).mappings().all()
        return [_shaped(LoggedAlarm, row) for row in rows]

    def _delivery(self, webhook_id: str, near: ColumnElement[bool] | None, tenant: str | None) -> LoggedDelivery | None:
        query = select(_deliveries).where(_deliveries.c.id == webhook_id)
        if near is not None:
            query = query.where(near)
        if tenant is not None:
            query = query.where(_deliveries.c.tenant == tenant)
        # A foreign record may use an id again: then the one that got furthest answers.
        query = query.order_by(_deliveries.c.run.desc(), _deliveries.c.stage.desc()).limit(1)
        with self._database.transaction() as connection:
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                return None
            rows = connection.execute(_attempts_of_delivery(webhook_id, row["accepted_at"])).mappings().all()
        happened = [_shaped(LoggedAttempt, attempt) for attempt in reversed(rows)]
        return _shaped(
            LoggedDelivery,
            row,
            attempts=tuple(one for one in happened if one.kind == "attempt"),
            notes=tuple(one for one in happened if one.kind != "attempt"),
        )


def _attempts_of_delivery(webhook_id: str, accepted_at: datetime) -> Select[Any]:
    query = select(_attempts).where(_attempts.c.webhook_id == webhook_id, _attempts.c.accepted_at == accepted_at)
    newest_first = (_attempts.c.run.desc(), _attempts.c.attempt.desc(), _attempts.c.attempted_at.desc())
    return query.order_by(*newest_first).limit(_ATTEMPTS_OF_ONE_MAX)


def _near(webhook_id: str, accepted_at: ColumnElement[datetime]) -> ColumnElement[bool] | None:
    """The time in a UUIDv7 leaves two partitions at most to look into."""
    drawn_ms = uuid7_ms(webhook_id)
    try:
        drawn_at = None if drawn_ms is None else to_datetime(drawn_ms)
        return None if drawn_at is None else accepted_at.between(drawn_at - _ID_TOLERANCE, drawn_at + _ID_TOLERANCE)
    except OverflowError:
        return None


def _is_storable(text: str) -> bool:
    """NUL and lone surrogates are in no id of ours."""
    try:
        return "\0" not in text and len(text.encode()) <= 1024
    except UnicodeEncodeError:
        return False


def _within(number: int, most: int) -> int:
    return max(0, min(number, most))


def _shaped(shape: type[_T], row: Mapping[Any, Any], **more: Any) -> _T:
    """The row's columns that ``shape`` knows."""
    names = [f.name for f in fields(shape) if f.name not in more]  # type: ignore[arg-type]
    values = {name: row[name] for name in names}
    if shape is LoggedAttempt:
        values["id"] = str(values["id"])
    return shape(**values, **more)
