"""What stands in `attempts`: of a delivery, an event, an endpoint or a process; each is one JSON record.

Pure. A kind that a version does not know is nothing to it, so old and new processes can live together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any, Literal, TypeVar, get_args

import msgspec
import orjson

from shared.clock import from_rfc3339, to_rfc3339
from shared.errors import UnreadableRecord
from shared.frozen import frozen
from shared.record_ids import attempt_id
from shared.records import Record

AttemptKind = Literal["attempt", "waiting", "parked", "resumed", "cancelled"]
AttemptOutcome = Literal["succeeded", "failed_attempt", "permanently_failed"]
#: Why a delivery waits in a tier without an attempt.
WaitReason = Literal["busy", "rate_limited", "throttled", "breaker_open", "stores_unreachable"]


@frozen
class Attempt:
    """One record of `attempts`: what happened to a delivery. Times are milliseconds since 1970.

    ``kind`` "attempt": one POST, or a final failure without one (address refused, too old). "waiting", "parked" and
    "cancelled" tell why there was none; "resumed": what was parked is on its way again. ``outcome`` is set on attempts
    only. ``reason`` is the dead letter's or the cancellation's.
    """

    kind: AttemptKind
    webhook_id: str
    subscription_id: str
    run: int
    attempt: int
    accepted_ms: int
    attempted_ms: int
    tenant: str = "default"
    event_type: str | None = None
    target_url: str | None = None
    waits: int = 0
    outcome: AttemptOutcome | None = None
    reason: str | None = None
    http_status_code: int | None = None
    error_class: str | None = None
    error_details: str | None = None
    duration_ms: float | None = None
    timings_ms: Mapping[str, float] | None = None
    address: str | None = None
    next_attempt_ms: int | None = None
    source: str | None = None
    event_id: str | None = None
    #: The request and what came back for it, as on the wire but for TLS.
    sent_bytes: int | None = None
    received_bytes: int | None = None
    #: The printable beginning of the answer's body, without our secrets.
    response_body: str | None = None

    @property
    def id(self) -> str:
        return attempt_id(self.webhook_id, self.run, self.attempt)

    def to_record(self, topic: str) -> Record:
        """As a JSON record of `attempts`; times become RFC 3339 under ``…_at``."""
        return Record(topic, self.subscription_id.encode(), _json(self, id=self.id))


@frozen
class Alarm:
    """A record of `attempts` that is about a process and no delivery: records were skipped, someone must look."""

    kind: Literal["records_skipped"]
    group: str
    source: str
    committed_offset: int
    position: int
    raised_ms: int

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.source.encode(), _json(self))


@frozen
class FannedOut:
    """A record of `attempts` that is about an event of `events`: its deliveries are all in the log.

    "unmatched": there are none. ``matched`` counts them. ``webhook_id`` is the event's.
    """

    kind: Literal["fanned_out", "unmatched"]
    webhook_id: str
    tenant: str
    event_type: str | None
    accepted_ms: int
    fanned_out_ms: int
    matched: int
    source: str | None = None

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.webhook_id.encode(), _json(self))


BreakerState = Literal["closed", "open", "half_open"]


@frozen
class LaneState:
    """A record of `attempts` that is about an endpoint and no delivery: its lane's breaker or pace changed.

    ``slow``: it gets less at once, after timeouts, 429 or 503. ``until_ms``: an open breaker is tried again then.
    """

    kind: Literal["breaker"]
    subscription_id: str
    tenant: str
    breaker: BreakerState
    slow: bool
    changed_ms: int
    reason: str | None = None
    until_ms: int | None = None
    consecutive_failures: int = 0

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.subscription_id.encode(), _json(self))


@frozen
class Disabled:
    """A record of `attempts` for people: a subscription was disabled, why, and since when its endpoint failed."""

    kind: Literal["disabled"]
    subscription_id: str
    tenant: str
    reason: str
    since_ms: int
    disabled_ms: int
    #: The event of `events` that tells its tenant.
    event_id: str

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.subscription_id.encode(), _json(self))


def attempt_from_json(value: bytes | None) -> Attempt | Alarm | FannedOut | LaneState | Disabled | None:
    """Read a record of `attempts`; None for a kind this version does not know. Raises UnreadableRecord."""
    try:
        body = orjson.loads(value or b"")
        kind = body["kind"]
        if kind == "records_skipped":
            return _from_body(Alarm, body)
        if kind in ("fanned_out", "unmatched"):
            return _from_body(FannedOut, {"event_type": None, **body})
        if kind == "breaker":
            return _from_body(LaneState, body)
        if kind == "disabled":
            return _from_body(Disabled, body)
        if kind in get_args(AttemptKind):
            return _from_body(Attempt, body)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UnreadableRecord(f"not an attempt record: {type(error).__name__}") from None
    return None


_TIMES = (
    "accepted_ms",
    "attempted_ms",
    "next_attempt_ms",
    "raised_ms",
    "fanned_out_ms",
    "changed_ms",
    "until_ms",
    "since_ms",
    "disabled_ms",
)


def _at(name: str) -> str:
    return name.removesuffix("_ms") + "_at"


_T = TypeVar("_T")


_FIELDS: dict[type, tuple[str, ...]] = {
    shape: tuple(f.name for f in fields(shape)) for shape in (Attempt, Alarm, FannedOut, LaneState, Disabled)
}


#: Which of them are times, by their number.
_TIMES_AT = {shape: tuple(at for at, n in enumerate(names) if n in _TIMES) for shape, names in _FIELDS.items()}
#: The values of all of them, in one call.
_VALUES = {shape: attrgetter(*names) for shape, names in _FIELDS.items()}


def _struct_of(shape: type) -> Callable[..., Any]:
    """The struct that is written of a shape: what is absent is left out. An attempt's id comes last."""
    names = [_at(name) if name in _TIMES else name for name in _FIELDS[shape]]
    if shape is Attempt:
        names.append("id")
    return msgspec.defstruct(shape.__name__, [(name, Any, None) for name in names], omit_defaults=True, gc=False)


_WRITTEN = {shape: _struct_of(shape) for shape in _FIELDS}
_encode = msgspec.json.Encoder().encode


def _json(what: Attempt | Alarm | FannedOut | LaneState | Disabled, **derived: str) -> bytes:
    """Its fields without the absent ones. A dict of so many would cost more than all the rest of a record."""
    shape = type(what)
    values = list(_VALUES[shape](what))
    for at in _TIMES_AT[shape]:
        if values[at] is not None:
            values[at] = to_rfc3339(values[at])
    return _encode(_WRITTEN[shape](*values, **derived))


def _from_body(shape: type[_T], body: Mapping[str, Any]) -> _T:
    known: dict[str, Any] = {}
    for name in _FIELDS[shape]:
        if name in _TIMES and _at(name) in body:
            known[name] = from_rfc3339(body[_at(name)])
        elif name in body:
            known[name] = body[name]
    return shape(**known)
