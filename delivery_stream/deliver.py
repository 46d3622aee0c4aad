"""One delivery -> one attempt. The main path, top to bottom.

What follows from deliveries that end together is made for all of them in a row (docs/decisions/0013).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

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
    decide,
)
from delivery_stream.masking import without_secrets
from delivery_stream.request import build_request
from shared import metrics
from shared.clock import Clock
from shared.errors import RecordTooLarge
from shared.logs import Often
from shared.records import Attempt, AttemptKind, AttemptOutcome, Delivery, Record, dead_letter
from shared.subscriptions import Absent, Found, Subscription, Unreachable
from shared.topics import RetrySchedule, Topics

log = logging.getLogger(__name__)
_attempted = Often(log, "attempted")

_DETAILS_MAX_CHARS = 500
_TIMED = (Answered, NoAnswer, Refused)
#: Waits that were not counted as attempts. A week of the shortest that repeat is about as many.
WAITS_MAX = 100_000


class Sends(Protocol):
    """The sender."""

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answered | NoAnswer | Refused: ...


class Knows(Protocol):
    """The subscriptions."""

    async def get(self, subscription_id: str) -> Found | Absent | Unreachable: ...
    def peek(self, subscription_id: str) -> Found | Absent | None: ...
    @property
    def postgres_trouble(self) -> str: ...


@dataclass(frozen=True, slots=True)
class DeliverIO:
    """What a delivery needs of the world. ``publish`` returns once Kafka has confirmed every record."""

    subscriptions: Knows
    sender: Sends
    publish: Callable[[Sequence[Record]], Awaitable[object]]
    clock: Clock
    topics: Topics
    schedule: RetrySchedule
    timeout_s: float
    max_event_age_s: float


class Ended(NamedTuple):
    """A delivery whose request is over, or which had none; nothing of it is on record yet."""

    delivery: Delivery
    subscription: Subscription | None
    outcome: Outcome
    started_ms: int


class Conclusion(NamedTuple):
    """What follows from an outcome; the delivery is done once Kafka has confirmed it.

    Either await ``publish()``, or send ``record`` and call ``confirmed()`` when Kafka has it.
    """

    #: False: put off or parked, and the same attempt will be asked for by another record.
    finished: bool
    #: None: only ``publish`` will do.
    record: Record | None
    confirmed: Callable[[], None]
    #: Writes all that follows, and returns once Kafka has confirmed it.
    publish: Callable[[], Awaitable[None]]


async def deliver(delivery: Delivery, io: DeliverIO) -> Ended:
    """One delivery's request; `conclude` must follow.

    The caller marks the offset done when Kafka has confirmed what that gives: a crash on any line repeats the attempt,
    and never loses it.
    """
    known = io.subscriptions.peek(delivery.subscription_id)  # nearly always in memory: one coroutine less
    subscription = known.subscription if isinstance(known, Found) else await subscription_of(delivery, io)
    started_ms = io.clock.now_ms()
    outcome = await attempt(delivery, subscription, io, started_ms)
    return Ended(delivery, subscription if isinstance(subscription, Subscription) else None, outcome, started_ms)


async def keep(delivery: Delivery, subscription: Subscription | None, io: DeliverIO) -> bool:
    """For a subscription that is not active, or was deleted: parked or cancelled, and never a request.

    Gives `Conclusion.finished`, once Kafka has confirmed what follows.
    """
    started_ms = io.clock.now_ms()
    outcome = await attempt(delivery, subscription, io, started_ms)
    [conclusion] = conclude([Ended(delivery, subscription, outcome, started_ms)], io)
    await conclusion.publish()
    return conclusion.finished


def conclude(ended: Sequence[Ended], io: DeliverIO) -> list[Conclusion]:
    """What follows from each. Each step for all of them, and not all steps of one and then of the next."""
    now_ms = io.clock.now_ms()
    decided = [_decided(one, now_ms, io) for one in ended]
    over = [(one, decision) for one, decision in decided if not isinstance(decision, Wait)]
    happened = [
        attempt_record(one.delivery, one.subscription, one.outcome, decision, one.started_ms, now_ms)
        for one, decision in over
    ]
    records = [what.to_record(io.topics.attempts) for what in happened]
    hops = [next_hop(one.delivery, one.outcome, decision, now_ms, io.topics) for one, decision in over]
    for what, (_, decision) in zip(happened, over, strict=True):
        _attempted.say(_facts(what, decision))
    conclusions = (
        Conclusion(
            finished=not isinstance(decision, Park),
            record=record if hop is None else None,
            confirmed=partial(_count, what),
            publish=partial(_publish_and_count, one.delivery, what, record, hop, io),
        )
        for (one, decision), what, record, hop in zip(over, happened, records, hops, strict=True)
    )
    return [_put_off(one, why, now_ms, io) if isinstance(why, Wait) else next(conclusions) for one, why in decided]


def _put_off(one: Ended, wait: Wait, now_ms: int, io: DeliverIO) -> Conclusion:
    waiting = [Waiting(one.delivery, one.subscription, wait)]
    return Conclusion(finished=False, record=None, confirmed=_nothing, publish=partial(put_off, waiting, now_ms, io))


def _nothing() -> None:
    """`put_off` counts by itself."""


def _decided(one: Ended, now_ms: int, io: DeliverIO) -> tuple[Ended, Decision]:
    decision = decide(one.outcome, one.delivery.attempt, schedule_for(one.subscription, io.schedule))
    if isinstance(decision, Wait) and outlived(one.delivery, now_ms, io):
        one = one._replace(outcome=TooOld(), started_ms=now_ms)
        decision = decide(one.outcome, one.delivery.attempt, io.schedule)
    return one, decision


class Waiting(NamedTuple):
    """A delivery whose turn has not come, its subscription as far as it is known, and how long it waits."""

    delivery: Delivery
    subscription: Subscription | None
    wait: Wait


async def put_off(waiting: Sequence[Waiting], now_ms: int, io: DeliverIO) -> None:
    """Each into a tier, no attempt counted; returns once Kafka has confirmed all.

    A delivery that waits for ever ends by its age, or by the number of its waits. Where the broker refuses one for its
    size, the others may be written twice, as after a crash.
    """
    ending = [one for one in waiting if outlived(one.delivery, now_ms, io)]
    going_on = [one for one in waiting if not outlived(one.delivery, now_ms, io)] if ending else waiting
    pairs = [_waiting_records(one, now_ms, io) for one in going_on]
    try:
        await io.publish([record for pair in pairs for record in pair if record is not None])
    except RecordTooLarge:
        for one, (what_happened, hop) in zip(going_on, pairs, strict=True):
            await _publish(one.delivery, what_happened, hop, io)
    for one in going_on:
        metrics.WAITS[one.wait.reason].inc()
        metrics.DEFERRED_SECONDS.inc(one.wait.wait_s)
    ended = [Ended(one.delivery, one.subscription, TooOld(), now_ms) for one in ending]
    await asyncio.gather(*(conclusion.publish() for conclusion in conclude(ended, io)))


def _waiting_records(one: Waiting, now_ms: int, io: DeliverIO) -> tuple[Record | None, Record]:
    """What the attempt log shall say of it, and its next hop."""
    delivery, subscription, wait = one
    # An endpoint's pace is a guess; everything else is kept to the point.
    guess = wait.reason == "busy"
    delay_s = io.schedule.rough_tier(wait.wait_s) if guess else io.schedule.wait_tier(wait.wait_s)
    wait_ms = int(wait.wait_s * 1000)
    later = delivery.again(
        waits=delivery.waits + 1,
        due_ms=now_ms + delay_s * 1000,
        not_before_ms=now_ms + wait_ms if wait_ms > delay_s * 1000 and not guess else None,
    )
    # The first, the second, the fourth, the eighth wait and so on: a log that a long outage does not fill.
    shown = not later.waits & later.waits - 1
    what_happened = waiting_record(later, subscription, wait, now_ms).to_record(io.topics.attempts) if shown else None
    return what_happened, later.to_record(io.topics.tier(delay_s))


async def subscription_of(delivery: Delivery, io: DeliverIO) -> Subscription | Unreachable | None:
    """The delivery's subscription, None when it was deleted."""
    match await io.subscriptions.get(delivery.subscription_id):
        case Found(subscription):
            return subscription
        case Absent():
            return None
        case Unreachable() as unreachable:
            return unreachable


def expired(delivery: Delivery, now_ms: int, io: DeliverIO) -> bool:
    """Older than a delivery may become."""
    return delivery.age_ms(now_ms) > io.max_event_age_s * 1000


def outlived(delivery: Delivery, now_ms: int, io: DeliverIO) -> bool:
    """Too old, or put off `WAITS_MAX` times: it may not wait any more."""
    return expired(delivery, now_ms, io) or delivery.waits >= WAITS_MAX


async def attempt(
    delivery: Delivery, subscription: Subscription | Unreachable | None, io: DeliverIO, now_ms: int
) -> Outcome:
    """POST it, unless there is a reason not to. Raises nothing but cancellation."""
    if subscription is None:
        return NoSubscription()
    if isinstance(subscription, Unreachable):
        return StoresUnreachable()
    if expired(delivery, now_ms, io):
        return TooOld()
    if subscription.status != "active":
        return NotActive(subscription.status)
    try:
        request = build_request(delivery, subscription, now_ms)
        if isinstance(request, Refused):
            return request
        timeout_s = subscription.timeout_seconds or io.timeout_s
        outcome = await io.sender.post(request.url, request.headers, delivery.payload, timeout_s)
        return without_secrets(outcome, subscription, request)
    except Exception as error:
        log.exception("internal error", extra={"webhook_id": delivery.webhook_id, "attempt": delivery.attempt})
        return InternalError(type(error).__name__)


def schedule_for(subscription: Subscription | None, default: RetrySchedule) -> RetrySchedule:
    """The subscription's own retry delays, else everybody's."""
    if subscription is None or subscription.retry_delays is None:
        return default
    return RetrySchedule(subscription.retry_delays)


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
            return _dead(delivery, outcome, reason, now_ms, topics)


async def _publish_and_count(
    delivery: Delivery, happened: Attempt, record: Record, hop: Record | None, io: DeliverIO
) -> None:
    await _publish(delivery, record, hop, io)
    _count(happened)


async def _publish(delivery: Delivery, what_happened: Record | None, hop: Record | None, io: DeliverIO) -> None:
    records = [record for record in (what_happened, hop) if record is not None]
    try:
        await io.publish(records)
    except RecordTooLarge:
        # Only a foreign record can come so close to the limit that our headers push it over.
        too_large = InternalError("too large for its next hop")
        records[-1] = _dead(delivery, too_large, "too large for its next hop", io.clock.now_ms(), io.topics)
        await io.publish(records)


def _dead(delivery: Delivery, outcome: Outcome, reason: str, now_ms: int, topics: Topics) -> Record:
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


def _count(happened: Attempt) -> None:
    if happened.outcome is not None:
        metrics.ATTEMPTS.inc(happened.outcome)
    if happened.duration_ms is not None:
        metrics.ATTEMPT_SECONDS.observe(happened.duration_ms / 1000)


class _Facts(msgspec.Struct, gc=False):
    """The one log line per attempt: identifiers and results, no payload and no secret."""

    webhook_id: str
    subscription_id: str
    attempt: int
    run: int
    status: int | None
    error_class: str | None
    decision: str
    duration_ms: float | None


def _facts(happened: Attempt, decision: Decision) -> _Facts:
    return _Facts(
        happened.webhook_id,
        happened.subscription_id,
        happened.attempt,
        happened.run,
        happened.http_status_code,
        happened.error_class,
        type(decision).__name__,
        happened.duration_ms,
    )
