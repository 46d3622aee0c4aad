"""Pure: records of our topics as rows of the attempt log, and which of two rows is the later state.

What comes out fits its columns, whatever came in: required fields are checked (UnreadableRecord), others are cut or
left out. Rows are folded by "the greater wins", so any order and any repetition gives the same table.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from shared.attempt_records import Alarm, Attempt, FannedOut, LaneState
from shared.clock import to_rfc3339
from shared.errors import UnreadableRecord
from shared.records import Delivery, Event, Source
from shared.subscription import canonical_id

_ID_MAX_BYTES = 1024
_DETAILS_MAX_CHARS = 500
_TEXT_MAX_CHARS = 1024
_URL_MAX_CHARS = 8192
_INT_MAX = 2**31 - 1
_FLOAT_MAX = 1e15
#: 9999-12-31: the last day that Python can tell.
_TIME_MAX_MS = 253_402_300_799_999

#: Once a delivery is final within a run, only something better replaces it: the receiver has it, or it has not.
_FINALITY = {"succeeded": 3, "failed": 2, "cancelled": 1}
_BREAKERS = ("closed", "open", "half_open")
#: What can be said about one attempt number, in this order.
_QUEUED, _HELD, _TRIED = 0, 1, 2
_BETTER_OUTCOME = {"succeeded": 2, "permanently_failed": 1, "failed_attempt": 0}


class DeliveryValues(NamedTuple):
    """A row of `deliveries`, columns in their words; times are RFC 3339 text, as COPY takes them."""

    id: str
    accepted_at: str
    subscription_id: str
    tenant: str
    event_type: str | None
    status: str
    run: int
    latest_attempt: int
    reason: str | None
    next_attempt_at: str | None
    source: str | None
    stage: int
    changed_at: str
    log_partition: int
    log_offset: int
    event_id: str | None


class EventValues(NamedTuple):
    """A row of `events`, in the same way."""

    id: str
    accepted_at: str
    tenant: str
    event_type: str | None
    matched: int | None
    fanned_out_at: str | None
    source: str | None
    stage: int
    log_partition: int
    log_offset: int


class AttemptValues(NamedTuple):
    """A row of `attempts`, in the same way."""

    webhook_id: str
    id: str
    accepted_at: str
    subscription_id: str
    tenant: str
    event_type: str | None
    target_url: str | None
    kind: str
    run: int
    attempt: int
    waits: int
    attempted_at: str
    outcome: str | None
    reason: str | None
    http_status_code: int | None
    error_class: str | None
    error_details: str | None
    duration_ms: float | None
    timings_ms: str | None
    address: str | None
    next_attempt_at: str | None
    source: str | None
    finality: int
    log_partition: int
    log_offset: int
    sent_bytes: int | None
    received_bytes: int | None
    response_body: str | None


class LaneValues(NamedTuple):
    """The lane's part of a row of `endpoint_states`, in the same way."""

    subscription_id: str
    breaker: str
    slow: bool
    reason: str | None
    changed_at: str
    open_until: str | None
    log_partition: int
    log_offset: int


@dataclass(frozen=True, slots=True)
class LogRow:
    """What one record adds to the attempt log."""

    delivery: DeliveryValues | None = None
    attempt: AttemptValues | None = None
    alarm: Alarm | None = None
    event: EventValues | None = None
    lane: LaneValues | None = None

    @property
    def day(self) -> str | None:
        """The day that its rows belong to, as in ``2026-01-31``."""
        dated = self.delivery or self.event
        return dated.accepted_at[:10] if dated else None


class Progress(NamedTuple):
    """How far one partition was read. ``caught_up_ms`` None: not further than was known."""

    topic: str
    partition: int
    next_offset: int
    caught_up_ms: int | None


def row_of_delivery(delivery: Delivery, source: Source) -> LogRow | None:
    """`queued`, for the first record of a delivery; later ones tell nothing that `attempts` does not."""
    if (delivery.run, delivery.attempt, delivery.waits) != (1, 1, 0):
        return None
    accepted_at = _time(delivery.accepted_ms)
    values = DeliveryValues(
        id=_id(delivery.webhook_id),
        accepted_at=accepted_at,
        subscription_id=_id(delivery.subscription_id),
        tenant=_text(delivery.tenant) or "default",
        event_type=_text(delivery.event_type),
        status="queued",
        run=1,
        latest_attempt=0,
        reason=None,
        next_attempt_at=None,
        source=str(source),
        stage=stage_of("queued", 1, _QUEUED),
        changed_at=accepted_at,
        log_partition=source.partition,
        log_offset=source.offset,
        event_id=_id_or_none(delivery.event_id),
    )
    return LogRow(delivery=values)


def row_of_event(event: Event, source: Source) -> LogRow:
    """Accepted, and not fanned out yet. Raises UnreadableRecord."""
    values = EventValues(
        id=_id(event.id),
        accepted_at=_time(event.accepted_ms),
        tenant=_text(event.tenant) or "default",
        event_type=_text(event.event_type),
        matched=None,
        fanned_out_at=None,
        source=str(source),
        stage=0,
        log_partition=source.partition,
        log_offset=source.offset,
    )
    return LogRow(event=values)


def row_of_fan_out(fanned_out: FannedOut, source: Source) -> LogRow:
    """The event with the number of its deliveries. Raises UnreadableRecord."""
    values = EventValues(
        id=_id(fanned_out.webhook_id),
        accepted_at=_time(fanned_out.accepted_ms),
        tenant=_text(fanned_out.tenant) or "default",
        event_type=_text(fanned_out.event_type),
        matched=_number(fanned_out.matched, _INT_MAX, "matched"),
        fanned_out_at=_time(fanned_out.fanned_out_ms),
        source=_text(fanned_out.source),
        stage=1,
        log_partition=source.partition,
        log_offset=source.offset,
    )
    return LogRow(event=values)


def row_of_attempt(attempt: Attempt, source: Source) -> LogRow:
    """The attempt and the state in which it leaves its delivery. Raises UnreadableRecord."""
    values = _attempt_values(attempt, source)
    status, latest_attempt, step = _state(values)
    delivery = DeliveryValues(
        id=values.webhook_id,
        accepted_at=values.accepted_at,
        subscription_id=values.subscription_id,
        tenant=values.tenant,
        event_type=values.event_type,
        status=status,
        run=values.run,
        latest_attempt=latest_attempt,
        reason=values.reason,
        next_attempt_at=values.next_attempt_at,
        source=values.source,
        stage=stage_of(status, values.attempt, step),
        changed_at=values.attempted_at,
        log_partition=source.partition,
        log_offset=source.offset,
        event_id=_id_or_none(attempt.event_id),
    )
    return LogRow(delivery=delivery, attempt=values)


def row_of_lane(state: LaneState, source: Source) -> LogRow | None:
    """What a lane became. None: no subscription of ours has such an id. Raises UnreadableRecord."""
    if state.breaker not in _BREAKERS or not isinstance(state.slow, bool):
        raise UnreadableRecord("not a state of a lane")
    subscription_id = canonical_id(_id(state.subscription_id))
    if subscription_id is None:
        return None
    values = LaneValues(
        subscription_id=subscription_id,
        breaker=state.breaker,
        slow=state.slow,
        reason=_text(state.reason, _DETAILS_MAX_CHARS),
        changed_at=_time(state.changed_ms),
        open_until=_time_or_none(state.until_ms),
        log_partition=source.partition,
        log_offset=source.offset,
    )
    return LogRow(lane=values)


def row_of_alarm(alarm: Alarm) -> LogRow:
    """Raises UnreadableRecord."""
    for offset in (alarm.committed_offset, alarm.position):
        _number(offset, 2**63 - 1, "offset")
    cleaned = Alarm(
        kind=alarm.kind,
        group=_id(alarm.group),
        source=_id(alarm.source),
        committed_offset=alarm.committed_offset,
        position=alarm.position,
        raised_ms=_number(alarm.raised_ms, _TIME_MAX_MS, "time"),
    )
    return LogRow(alarm=cleaned)


def stage_of(status: str, attempt: int, step: int) -> int:
    """A number that grows within a run: finality first, then the attempt's number, then what is known of it."""
    return _FINALITY.get(status, 0) << 40 | attempt << 4 | step


def _state(values: AttemptValues) -> tuple[str, int, int]:
    """Status, number of the last attempt made, and step."""
    number = values.attempt
    if values.kind == "attempt":
        status = {"succeeded": "succeeded", "permanently_failed": "failed"}.get(values.outcome or "", "retrying")
        return status, number, _TRIED
    status = {"parked": "paused", "cancelled": "cancelled"}.get(values.kind, "queued" if number == 1 else "retrying")
    return status, number - 1, _HELD


def _attempt_values(attempt: Attempt, source: Source) -> AttemptValues:
    if attempt.kind == "attempt" and attempt.outcome not in _BETTER_OUTCOME:
        raise UnreadableRecord("attempt without a known outcome")
    webhook_id, run = _id(attempt.webhook_id), _number(attempt.run, _INT_MAX, "run", least=1)
    number, waits = _number(attempt.attempt, _INT_MAX, "attempt", least=1), _number(attempt.waits, _INT_MAX, "waits")
    return AttemptValues(
        webhook_id=webhook_id,
        id=_row_id(attempt.id, attempt.kind, waits),
        accepted_at=_time(attempt.accepted_ms),
        subscription_id=_id(attempt.subscription_id),
        tenant=_text(attempt.tenant) or "default",
        event_type=_text(attempt.event_type),
        target_url=_text(attempt.target_url, _URL_MAX_CHARS),
        kind=attempt.kind,
        run=run,
        attempt=number,
        waits=waits,
        attempted_at=_time(attempt.attempted_ms),
        outcome=attempt.outcome if attempt.kind == "attempt" else None,
        reason=_text(attempt.reason),
        http_status_code=_number_or_none(attempt.http_status_code),
        error_class=_text(attempt.error_class),
        error_details=_text(attempt.error_details, _DETAILS_MAX_CHARS),
        duration_ms=_float_or_none(attempt.duration_ms),
        timings_ms=_timings(attempt.timings_ms),
        address=_text(attempt.address),
        next_attempt_at=_time_or_none(attempt.next_attempt_ms),
        source=_text(attempt.source),
        finality=_BETTER_OUTCOME.get(attempt.outcome or "", 0),
        log_partition=source.partition,
        log_offset=source.offset,
        sent_bytes=_number_or_none(attempt.sent_bytes),
        received_bytes=_number_or_none(attempt.received_bytes),
        response_body=_text(attempt.response_body, _DETAILS_MAX_CHARS),
    )


def _row_id(attempt_id: str, kind: str, waits: int) -> str:
    """An attempt has one row; what happens before it (waits, parking, cancellation) has its own, by how often."""
    return attempt_id if kind == "attempt" else str(uuid.uuid5(uuid.UUID(attempt_id), f"{kind}/{waits}"))


def _id(value: object) -> str:
    """As it is: another id would be another delivery's."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise UnreadableRecord("not an id")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise UnreadableRecord("not an id") from None
    if size > _ID_MAX_BYTES:
        raise UnreadableRecord("id too long")
    return value


def _id_or_none(value: object) -> str | None:
    """A bad one is nobody's event; the delivery is as good without."""
    try:
        return _id(value)
    except UnreadableRecord:
        return None


def _text(value: object, max_chars: int = _TEXT_MAX_CHARS) -> str | None:
    """Without what Postgres does not store: NUL and lone surrogates."""
    if not isinstance(value, str):
        return None
    cut = value[:max_chars]
    if cut.isascii() and "\0" not in cut:
        return cut
    return cut.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _number(value: object, most: int, name: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UnreadableRecord(f"{name} is not a usable number")
    return value


def _number_or_none(value: object, most: int = _INT_MAX) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= most else None


def _float_or_none(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < _FLOAT_MAX else None


def _time(value: object) -> str:
    return to_rfc3339(_number(value, _TIME_MAX_MS, "time"))


def _time_or_none(value: object) -> str | None:
    at_ms = _number_or_none(value, _TIME_MAX_MS)
    return None if at_ms is None else to_rfc3339(at_ms)


def _timings(value: object) -> str | None:
    """The steps that are numbers, as JSON."""
    if not isinstance(value, Mapping):
        return None
    steps: dict[str, Any] = {}
    for name, step_ms in list(value.items())[:16]:
        text, number = _text(name, 64), _float_or_none(step_ms)
        if text and number is not None:
            steps[text] = number
    return orjson.dumps(steps).decode() if steps else None
