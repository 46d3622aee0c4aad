"""What is parked, and who brings it back: rows that change together with a subscription's status.

Everything here runs in a transaction that holds the lock of the subscription's row (the scheduler shares it, a change
of the status excludes it), so a record of `parked` is noted before the resume and is in its job, or finds the
subscription active and gets a job by itself: none is left behind, and none is in two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import uuid_utils
from sqlalchemy import Connection, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.tables import ParkedRow, ReplayRangeRow, ReplayRow, SubscriptionRow

_subscriptions = SubscriptionRow.__table__  # type: ignore[attr-defined]
_parked = ParkedRow.__table__  # type: ignore[attr-defined]
_replays = ReplayRow.__table__  # type: ignore[attr-defined]
_ranges = ReplayRangeRow.__table__  # type: ignore[attr-defined]

RESUME = "resume"
#: What has something left to do.
OPEN = ("running", "held")
#: After this every process has seen a change of a subscription (a second is promised). A job that began earlier would
#: meet stream workers that still take the subscription for paused and park its records again, behind the others.
SETTLE_S = 1.5
_DELETED = "subscription deleted"


class Span(NamedTuple):
    """Records of one subscription in one partition, from the first to before ``to_offset``."""

    partition: int
    from_offset: int
    to_offset: int
    records: int


#: By subscription.
Found = Mapping[str, Sequence[Span]]


def note(connection: Connection, topic: str, found: Found) -> set[str]:
    """Take over what was read from ``topic``, by subscription; gives the ids that nobody knows.

    A subscription that is not active keeps it until it is resumed; for one that is active, or was deleted, a job
    brings it back (the stream then delivers, or cancels). Repeating it does no harm.
    """
    columns = (_subscriptions.c.id, _subscriptions.c.tenant, _subscriptions.c.status, _subscriptions.c.deleted_at)
    wanted = [UUID(subscription_id) for subscription_id in found]
    # In the order of their ids: two who wait for each other's rows would be a deadlock.
    locked = select(*columns).where(_subscriptions.c.id.in_(wanted)).order_by(_subscriptions.c.id)
    known = connection.execute(locked.with_for_update(read=True)).all()
    for row in known:
        spans = found[str(row.id)]
        if row.deleted_at is None and row.status != "active":
            _keep(connection, topic, row.id, spans)
        else:
            reason = None if row.deleted_at is None else _DELETED
            _queue(connection, topic, row.id, row.tenant, spans, reason)
    return set(found) - {str(row.id) for row in known}


def status_changed(connection: Connection, subscription_id: UUID, tenant: str, status: str) -> None:
    """Active: what is parked is a job from now on, and one that was held goes on. Else: the job stops where it is."""
    if status == "active":
        _bring_back(connection, subscription_id, tenant, None)
    else:
        _hold(connection, subscription_id)


def deleted(connection: Connection, subscription_id: UUID, tenant: str) -> None:
    """What is parked goes back all the same: the stream cancels it."""
    _bring_back(connection, subscription_id, tenant, _DELETED)


def counts(connection: Connection, subscription_ids: Iterable[str]) -> dict[str, int]:
    """How many events are parked for each of these, what a job has yet to publish included; without the zeros."""
    ids = [UUID(subscription_id) for subscription_id in subscription_ids]
    kept = select(_parked.c.subscription_id, _parked.c.records.label("records")).where(
        _parked.c.subscription_id.in_(ids)
    )
    left = func.greatest(0, _replays.c.records - _replays.c.published).label("records")
    in_jobs = select(_replays.c.subscription_id, left).where(
        _replays.c.subscription_id.in_(ids), _replays.c.kind == RESUME, _replays.c.state.in_(OPEN)
    )
    both = kept.union_all(in_jobs).subquery()
    totals = select(both.c.subscription_id, func.sum(both.c.records).label("total")).group_by(both.c.subscription_id)
    return {str(row.subscription_id): int(row.total) for row in connection.execute(totals) if row.total}


def least_offsets(connection: Connection) -> dict[tuple[str, int], int]:
    """By topic and partition: the first offset that somebody still needs. One statement, so no move is missed."""
    kept = select(_parked.c.topic, _parked.c.partition, _parked.c.from_offset.label("first"))
    in_jobs = (
        select(_replays.c.topic, _ranges.c.partition, _ranges.c.next_offset.label("first"))
        .join_from(_ranges, _replays, _ranges.c.replay_id == _replays.c.id)
        .where(_replays.c.state.in_(OPEN), _ranges.c.next_offset < _ranges.c.to_offset)
    )
    both = kept.union_all(in_jobs).subquery()
    least = select(both.c.topic, both.c.partition, func.min(both.c.first).label("first"))
    rows = connection.execute(least.group_by(both.c.topic, both.c.partition))
    return {(row.topic, row.partition): row.first for row in rows}


def _keep(connection: Connection, topic: str, subscription_id: UUID, spans: Sequence[Span]) -> None:
    rows = [{"subscription_id": subscription_id, "topic": topic, **span._asdict()} for span in spans]
    new = insert(ParkedRow)
    known, come = _parked.c, new.excluded
    further = {
        "from_offset": func.least(known.from_offset, come.from_offset),
        "to_offset": func.greatest(known.to_offset, come.to_offset),
        # After a crash the same records are read again, and counted before.
        "records": known.records + case((come.from_offset >= known.to_offset, come.records), else_=0),
    }
    connection.execute(
        new.on_conflict_do_update(index_elements=["subscription_id", "topic", "partition"], set_=further), rows
    )


def _bring_back(connection: Connection, subscription_id: UUID, tenant: str, reason: str | None) -> None:
    kept = delete(_parked).where(_parked.c.subscription_id == subscription_id).returning(_parked)
    by_topic: defaultdict[str, list[Span]] = defaultdict(list)
    for row in connection.execute(kept):
        by_topic[row.topic].append(Span(row.partition, row.from_offset, row.to_offset, row.records))
    for topic, spans in by_topic.items():
        _queue(connection, topic, subscription_id, tenant, spans, reason)
    again = {"state": "running", "not_before": _settled(), "reason": reason}
    connection.execute(update(_replays).where(*_open_of(subscription_id)).values(again))


def _hold(connection: Connection, subscription_id: UUID) -> None:
    connection.execute(update(_replays).where(*_open_of(subscription_id)).values(state="held"))


def _queue(
    connection: Connection, topic: str, subscription_id: UUID, tenant: str, spans: Sequence[Span], reason: str | None
) -> None:
    """Add to the job that has not begun yet, else make one: a subscription has two open ones at most."""
    waiting = (*_open_of(subscription_id), _replays.c.topic == topic, _replays.c.started_at.is_(None))
    newest = select(_replays.c.id).where(*waiting).order_by(_replays.c.created_at.desc()).limit(1).with_for_update()
    replay_id = connection.execute(newest).scalar_one_or_none()
    records = sum(span.records for span in spans)
    if replay_id is None:
        replay_id = UUID(str(uuid_utils.uuid7()))
        values: dict[str, Any] = {
            "id": replay_id,
            "kind": RESUME,
            "topic": topic,
            "tenant": tenant,
            "subscription_id": subscription_id,
            "state": "running",
            "reason": reason,
            "records": records,
            "published": 0,
            "last_records": 0,
            "created_at": func.clock_timestamp(),
            "next_step_at": func.clock_timestamp(),
            "not_before": _settled(),
        }
        connection.execute(insert(ReplayRow).values(values))
    else:
        more = update(_replays).where(_replays.c.id == replay_id)
        connection.execute(more.values(records=_replays.c.records + records))
    new = insert(ReplayRangeRow)
    further = {"to_offset": func.greatest(_ranges.c.to_offset, new.excluded.to_offset)}
    connection.execute(
        new.on_conflict_do_update(index_elements=["replay_id", "partition", "from_offset"], set_=further),
        [
            {
                "replay_id": replay_id,
                "partition": span.partition,
                "from_offset": span.from_offset,
                "to_offset": span.to_offset,
                "next_offset": span.from_offset,
            }
            for span in spans
        ],
    )


def _open_of(subscription_id: UUID) -> tuple[Any, ...]:
    return (
        _replays.c.subscription_id == subscription_id,
        _replays.c.kind == RESUME,
        _replays.c.state.in_(OPEN),
    )


def _settled() -> Any:
    return func.clock_timestamp() + timedelta(seconds=SETTLE_S)
