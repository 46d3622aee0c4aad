"""Pure: a delivery and what came of it -> the records that tell of it and carry it on."""

from __future__ import annotations

from delivery_stream.decision import (
    Answered,
    Cancelled,
    DeadLetter,
    Decision,
    Delivered,
    InternalError,
    NoAnswer,
    NoSubscription,
    NotActive,
    Outcome,
    Park,
    Refused,
    RetryIn,
    StoresUnreachable,
    Timings,
    TooOld,
    Wait,
)
from shared.attempt_records import Attempt, AttemptKind, AttemptOutcome
from shared.records import Delivery, Record, dead_letter
from shared.subscriptions import Subscription
from shared.topics import Topics

_DETAILS_MAX_CHARS = 500
_TIMED = (Answered, NoAnswer, Refused)


def attempt_record(
    delivery: Delivery,
    subscription: Subscription | None,
    outcome: Outcome,
    decision: Decision,
    started_ms: int,
    ended_ms: int,
) -> Attempt:
    """What the attempt log shall say."""
    timings = outcome.timings if isinstance(outcome, _TIMED) else Timings()
    kind, result, reason = _verdict(decision)
    error_class, details = _error(outcome)
    return Attempt(
        kind=kind,
        webhook_id=delivery.webhook_id,
        subscription_id=delivery.subscription_id,
        tenant=subscription.tenant if subscription else delivery.tenant,
        event_type=delivery.event_type,
        target_url=subscription.target_url if subscription else None,
        run=delivery.run,
        attempt=delivery.attempt,
        waits=delivery.waits,
        accepted_ms=delivery.accepted_ms,
        attempted_ms=started_ms,
        outcome=result,
        reason=reason,
        http_status_code=outcome.status if isinstance(outcome, Answered) else None,
        error_class=error_class,
        error_details=details[:_DETAILS_MAX_CHARS] if details else None,
        duration_ms=round(timings.total_ms, 3) if timings.total_ms else None,
        timings_ms=_steps(timings),
        address=timings.address,
        next_attempt_ms=ended_ms + _wait_ms(decision) if isinstance(decision, RetryIn) else None,
        source=str(delivery.source) if delivery.source else None,
        event_id=delivery.event_id,
        sent_bytes=timings.sent_bytes,
        received_bytes=timings.received_bytes,
        response_body=(_text(outcome.body) or None) if isinstance(outcome, Answered) else None,
    )


def waiting_record(delivery: Delivery, subscription: Subscription | None, wait: Wait, now_ms: int) -> Attempt:
    """What the attempt log shall say of a delivery whose turn has not come."""
    return Attempt(
        kind="waiting",
        webhook_id=delivery.webhook_id,
        subscription_id=delivery.subscription_id,
        tenant=subscription.tenant if subscription else delivery.tenant,
        event_type=delivery.event_type,
        target_url=subscription.target_url if subscription else None,
        run=delivery.run,
        attempt=delivery.attempt,
        waits=delivery.waits,
        accepted_ms=delivery.accepted_ms,
        attempted_ms=now_ms,
        reason=wait.reason,
        next_attempt_ms=now_ms + int(wait.wait_s * 1000),
        source=str(delivery.source) if delivery.source else None,
        event_id=delivery.event_id,
    )


def next_hop(delivery: Delivery, outcome: Outcome, decision: Decision, now_ms: int, topics: Topics) -> Record | None:
    """The record that carries the delivery on; None when it has arrived or is not wanted any more."""
    match decision:
        case Delivered() | Cancelled() | Wait():
            return None
        case RetryIn(delay_s, at_least_s):
            later = delivery.again(
                attempt=delivery.attempt + 1,
                due_ms=now_ms + delay_s * 1000,
                not_before_ms=now_ms + int(at_least_s * 1000) if at_least_s > delay_s else None,
            )
            return later.to_record(topics.tier(delay_s))
        case Park():
            return delivery.again(due_ms=None, not_before_ms=None).to_record(topics.parked)
        case DeadLetter(reason):
            return dead_letter_after(delivery, outcome, reason, now_ms, topics)


def dead_letter_after(delivery: Delivery, outcome: Outcome, reason: str, now_ms: int, topics: Topics) -> Record:
    """The delivery as a dead letter."""
    error_class, details = _error(outcome)
    return dead_letter(
        delivery,
        topics.dead_letter,
        reason=reason,
        failed_ms=now_ms,
        status=outcome.status if isinstance(outcome, Answered) else None,
        error=": ".join(part for part in (error_class, details) if part),
    )


def _verdict(decision: Decision) -> tuple[AttemptKind, AttemptOutcome | None, str | None]:
    match decision:
        case Delivered():
            return "attempt", "succeeded", None
        case RetryIn():
            return "attempt", "failed_attempt", None
        case DeadLetter(reason):
            return "attempt", "permanently_failed", reason
        case Cancelled(reason):
            return "cancelled", None, reason
        case Park():
            return "parked", None, "subscription not active"
        case Wait(reason=reason):
            return "waiting", None, reason


def _error(outcome: Outcome) -> tuple[str | None, str | None]:
    """Error class and details, for people."""
    match outcome:
        case Answered(status=status) if 200 <= status < 300:
            return None, None
        case Answered(status=status, body=body):
            return "http_status", _text(body) or f"the endpoint answered {status}"
        case NoAnswer(error_class, details):
            return error_class, details
        case Refused(reason, details):
            return reason, details
        case InternalError(details):
            return "internal_error", details
        case TooOld():
            return "expired", "older than MAX_EVENT_AGE_HOURS"
        case NoSubscription() | NotActive() | StoresUnreachable():
            return None, None


def _text(body: bytes) -> str:
    """The printable beginning of an answer."""
    text = body[: 4 * _DETAILS_MAX_CHARS].decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return text.strip()[:_DETAILS_MAX_CHARS]


def _steps(timings: Timings) -> dict[str, float] | None:
    steps: dict[str, float] = {}
    if timings.connect_ms is not None or timings.dns_ms is not None:
        made = {"dns": timings.dns_ms, "connect": timings.connect_ms, "tls": timings.tls_ms}
        steps = {name: round(ms, 3) for name, ms in made.items() if ms is not None}
    if timings.first_byte_ms is not None:
        steps["first_byte"] = round(timings.first_byte_ms, 3)
    return steps or None


def _wait_ms(decision: RetryIn) -> int:
    return int(max(decision.delay_s, decision.at_least_s) * 1000)
