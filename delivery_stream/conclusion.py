"""What follows from requests that are over: decisions, records, log lines, and that Kafka has them.

It is made for all that end together in a row (docs/decisions/0013).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from delivery_stream.decision import Decision, InternalError, Park, TooOld, Wait, decide
from delivery_stream.deliver import DeliverIO, Ended, attempt, expired
from delivery_stream.records_after import attempt_record, dead_letter_after, next_hop, waiting_record
from shared import metrics
from shared.attempt_records import Attempt
from shared.errors import RecordTooLarge
from shared.logs import Often
from shared.records import Delivery, Record
from shared.subscriptions import Subscription
from shared.topics import RetrySchedule

log = logging.getLogger(__name__)
_attempted = Often(log, "attempted")

#: Waits that were not counted as attempts. A week of the shortest that repeat is about as many.
WAITS_MAX = 100_000


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
    _attempted.say([_facts(what, decision) for what, (_, decision) in zip(happened, over, strict=True)])
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


async def keep(delivery: Delivery, subscription: Subscription | None, io: DeliverIO) -> bool:
    """For a subscription that is not active, or was deleted: parked or cancelled, and never a request.

    Gives `Conclusion.finished`, once Kafka has confirmed what follows.
    """
    started_ms = io.clock.now_ms()
    outcome = await attempt(delivery, subscription, io, started_ms)
    [conclusion] = conclude([Ended(delivery, subscription, outcome, started_ms)], io)
    await conclusion.publish()
    return conclusion.finished


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


def outlived(delivery: Delivery, now_ms: int, io: DeliverIO) -> bool:
    """Too old, or put off `WAITS_MAX` times: it may not wait any more."""
    return expired(delivery, now_ms, io) or delivery.waits >= WAITS_MAX


def schedule_for(subscription: Subscription | None, default: RetrySchedule) -> RetrySchedule:
    """The subscription's own retry delays, else everybody's."""
    if subscription is None or subscription.retry_delays is None:
        return default
    return RetrySchedule(subscription.retry_delays)


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
        records[-1] = dead_letter_after(delivery, too_large, "too large for its next hop", io.clock.now_ms(), io.topics)
        await io.publish(records)


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
