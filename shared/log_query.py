"""Pure: which attempts of the log are asked for, and where the next page of them begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, exists, select, tuple_

from shared.tables import AttemptRow, DeliveryRow

_attempts = AttemptRow.__table__  # type: ignore[attr-defined]
_deliveries = DeliveryRow.__table__  # type: ignore[attr-defined]


class Position(NamedTuple):
    """A row's place in the order of the log (the newest first): what comes after it is older."""

    attempted_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which attempts; None: whatever it is. ``since`` is included, ``until`` is not. Texts are storable."""

    subscription_id: str | None = None
    tenant: str | None = None
    event_type: str | None = None
    outcome: str | None = None
    #: Where the attempt's delivery stands now, and not where it stood then.
    status: str | None = None
    http_status_code: int | None = None
    since: datetime | None = None
    until: datetime | None = None


def newest_first(wanted: LogFilter, after: Position | None) -> Select[Any]:
    """The attempts wanted, without those up to ``after``; neither offset nor limit is set."""
    query = select(_attempts).where(_attempts.c.kind == "attempt", *_conditions(wanted))
    if after is not None:
        query = query.where(tuple_(_attempts.c.attempted_at, _attempts.c.id) < tuple_(*after))
    return query.order_by(_attempts.c.attempted_at.desc(), _attempts.c.id.desc())


def _conditions(wanted: LogFilter) -> Iterator[ColumnElement[bool]]:
    for name in ("subscription_id", "tenant", "event_type", "outcome", "http_status_code"):
        value = getattr(wanted, name)
        if value is not None:
            yield _attempts.c[name] == value
    if wanted.since is not None:
        yield _attempts.c.attempted_at >= wanted.since
    if wanted.until is not None:
        yield _attempts.c.attempted_at < wanted.until
    if wanted.status is not None:
        yield exists().where(
            _deliveries.c.id == _attempts.c.webhook_id,
            _deliveries.c.accepted_at == _attempts.c.accepted_at,
            _deliveries.c.status == wanted.status,
        )
