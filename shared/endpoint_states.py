"""How each subscription's endpoint does: rows of `endpoint_states`, written by the sink and read by the API.

The row is a function of the set of attempts and reports, whatever their order and however often: the later report of
the lane stands, the last times are the greatest, and ``failing_since`` is the first failure after the last success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from shared.attempt_records import BreakerState
from shared.attempt_rows import LaneValues
from shared.clock import to_ms
from shared.database import Database
from shared.endpoint_rows import NOT_THE_ENDPOINTS, Seen
from shared.subscription import Status
from shared.tables import EndpointStateRow, SubscriptionRow

_table = EndpointStateRow.__table__  # type: ignore[attr-defined]
_subscriptions = SubscriptionRow.__table__  # type: ignore[attr-defined]

#: It answered 410, or nothing but failures for DISABLE_AFTER_HOURS.
DisabledReason = Literal["gone", "failing"]


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One row. Times are aware, UTC."""

    subscription_id: str
    breaker: BreakerState
    slow: bool
    reason: str | None
    #: When the lane said so; None: it has said nothing.
    changed_at: datetime | None
    open_until: datetime | None
    failing_since: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None

    def counted_since(self, status: Status, updated_at: datetime) -> datetime | None:
        """From where its failures count, None: there are none: from the first one, or the subscription's last change.

        What is not active any more keeps what it had.
        """
        if status != "active" or self.failing_since is None or self.last_failure_at is None:
            return self.failing_since
        return max(self.failing_since, updated_at) if self.last_failure_at > updated_at else None


#: Nothing is known.
QUIET = EndpointState("", "closed", False, None, None, None, None, None, None, None, None)


class Failing(NamedTuple):
    """An active subscription whose endpoint said 410 since it was last changed, or does nothing but fail."""

    subscription_id: str
    tenant: str
    target_url: str
    description: str | None
    version: int
    updated_at: datetime
    #: From here its failures count: the first one, or the last change of the subscription.
    failing_since: datetime
    #: For long enough: the last failure is so much later.
    too_long: bool


class EndpointStates:
    """Blocking. Raises StoreUnavailable when Postgres is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, subscription_ids: Sequence[str]) -> Mapping[str, EndpointState]:
        """Those of which something is known, by the subscription's id."""
        if not subscription_ids:
            return {}
        query = select(_table).where(_table.c.subscription_id.in_([UUID(one) for one in subscription_ids]))
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        states = (_state(row) for row in rows)
        return {state.subscription_id: state for state in states}


def forget(connection: Connection, subscription_id: str) -> None:
    """The subscription is deleted."""
    connection.execute(delete(_table).where(_table.c.subscription_id == UUID(subscription_id)))


def note_disabled(connection: Connection, subscription_id: str, reason: DisabledReason, at: datetime) -> None:
    """We have disabled the subscription, and why."""
    why = {"disabled_reason": reason, "disabled_at": at}
    new = insert(EndpointStateRow).values(subscription_id=UUID(subscription_id), **why)
    connection.execute(new.on_conflict_do_update(index_elements=["subscription_id"], set_=why))


def forget_deleted(database: Database) -> int:
    """Rows that a batch wrote while its subscription was being deleted; how many there were."""
    gone = select(_subscriptions.c.id).where(_subscriptions.c.deleted_at.is_not(None))
    with database.transaction() as connection:
        return int(connection.execute(delete(_table).where(_table.c.subscription_id.in_(gone))).rowcount)


def write_lanes(connection: Connection, lanes: Sequence[LaneValues]) -> None:
    """What the lanes said, for subscriptions that there are."""
    if lanes:
        connection.exec_driver_sql(_LANES, _columns(lanes))


def write_seen(connection: Connection, seen: Sequence[Seen], failing_for_s: float) -> list[Failing]:
    """What the attempts said, for subscriptions that there are, by id; the attempts themselves are written.

    Gives those that answered 410, or failed for ``failing_for_s`` seconds and longer.
    """
    if not seen:
        return []
    unclear = connection.exec_driver_sql(_SEEN, _columns(seen)).scalars().all()
    if unclear:
        connection.exec_driver_sql(_ASK_THE_LOG, {"ids": list(unclear)})
    failed = [one for one in seen if one.last_failure_at]
    if not failed:
        return []
    parameters = {**_columns(failed), "failing_for_s": failing_for_s}
    return [Failing(*row) for row in connection.exec_driver_sql(_AT_AN_END, parameters)]


def _columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """For `unnest`: a list for each column, named as in the tuples."""
    names: Iterable[str] = rows[0]._fields  # type: ignore[attr-defined]
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _state(row: Mapping[Any, Any]) -> EndpointState:
    values = {name: row[name] for name in EndpointState.__slots__}
    values["subscription_id"] = str(row["subscription_id"])
    values["changed_at"] = row["changed_at"] if to_ms(row["changed_at"]) else None
    return EndpointState(**values)


_LANES = """
insert into endpoint_states as known
    (subscription_id, breaker, slow, reason, changed_at, open_until, log_partition, log_offset)
select distinct on (said.subscription_id) said.*
from unnest(
        %(subscription_id)s::uuid[], %(breaker)s::text[], %(slow)s::boolean[], %(reason)s::text[],
        %(changed_at)s::timestamptz[], %(open_until)s::timestamptz[], %(log_partition)s::int[], %(log_offset)s::bigint[]
    ) as said (subscription_id, breaker, slow, reason, changed_at, open_until, log_partition, log_offset)
join subscriptions s on s.id = said.subscription_id and s.deleted_at is null
order by said.subscription_id, changed_at desc, log_partition desc, log_offset desc
on conflict (subscription_id) do update set
    breaker = excluded.breaker, slow = excluded.slow, reason = excluded.reason, changed_at = excluded.changed_at,
    open_until = excluded.open_until, log_partition = excluded.log_partition, log_offset = excluded.log_offset
where (excluded.changed_at, excluded.log_partition, excluded.log_offset)
    > (known.changed_at, known.log_partition, known.log_offset)
"""

_LAST_SUCCESS = "greatest(known.last_success_at, excluded.last_success_at)"
_LAST_FAILURE = "greatest(known.last_failure_at, excluded.last_failure_at)"
#: In the place of a first failure that lies between two failures of one side: only the log knows it, and it is asked
#: before anybody sees this.
_ONLY_THE_LOG_KNOWS = "timestamptz 'epoch'"
_SEEN = f"""
with written as (
    insert into endpoint_states as known (subscription_id, last_success_at, last_failure_at, failing_since)
    select seen.*
    from unnest(
            %(subscription_id)s::uuid[], %(last_success_at)s::timestamptz[], %(last_failure_at)s::timestamptz[],
            %(failing_since)s::timestamptz[]
        ) as seen (subscription_id, last_success_at, last_failure_at, failing_since)
    join subscriptions s on s.id = seen.subscription_id and s.deleted_at is null
    order by seen.subscription_id
    on conflict (subscription_id) do update set
        last_success_at = {_LAST_SUCCESS},
        last_failure_at = {_LAST_FAILURE},
        failing_since = case
            when {_LAST_FAILURE} <= {_LAST_SUCCESS} then null
            when known.failing_since <= {_LAST_SUCCESS} and known.last_failure_at > {_LAST_SUCCESS}
                or excluded.failing_since <= {_LAST_SUCCESS} and excluded.last_failure_at > {_LAST_SUCCESS}
                then {_ONLY_THE_LOG_KNOWS}
            else least(
                case when coalesce(known.failing_since > {_LAST_SUCCESS}, true) then known.failing_since end,
                case when coalesce(excluded.failing_since > {_LAST_SUCCESS}, true) then excluded.failing_since end
            )
        end
    returning subscription_id, failing_since
)
select subscription_id::text from written where failing_since = {_ONLY_THE_LOG_KNOWS}
"""  # noqa: S608 - all of it is from this file

_NOT_OURS = ", ".join(f"'{name}'" for name in NOT_THE_ENDPOINTS)
#: Everything after the last success has failed, so the first row of the index is the answer. Days before a delivery's
#: longest way (MAX_EVENT_AGE_HOURS, as it is by default) are not looked into. None found: the last one, late but true.
#: A statement of its own: planning it costs milliseconds, for it knows every day of the log.
_ASK_THE_LOG = f"""
update endpoint_states known set failing_since = coalesce((
    select a.attempted_at from attempts a
    where a.subscription_id = known.subscription_id::text and a.kind = 'attempt'
        and a.attempted_at > known.last_success_at and a.accepted_at > known.last_success_at - interval '8 days'
        and a.outcome <> 'succeeded' and coalesce(a.error_class, '') not in ({_NOT_OURS})
    order by a.attempted_at limit 1
), last_failure_at)
where subscription_id = any(%(ids)s::uuid[])
"""  # noqa: S608 - all of it is from this file

_AT_AN_END = """
select s.id::text, s.tenant, s.target_url, s.description, s.version, s.updated_at,
    coalesce(since, gone_at), coalesce(too_long, false)
from unnest(%(subscription_id)s::uuid[], %(gone_at)s::timestamptz[]) as seen (subscription_id, gone_at)
join subscriptions s on s.id = seen.subscription_id and s.status = 'active' and s.deleted_at is null
join endpoint_states e on e.subscription_id = s.id
left join lateral (
    select greatest(e.failing_since, s.updated_at) as since,
        e.last_failure_at - greatest(e.failing_since, s.updated_at) >= make_interval(secs => %(failing_for_s)s)
            as too_long
    where e.failing_since is not null and e.last_failure_at > s.updated_at
) counted on true
where gone_at > s.updated_at or too_long
"""
