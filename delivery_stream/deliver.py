"""One delivery -> one request. The main path, top to bottom; `conclusion` is the rest of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from delivery_stream.decision import (
    Answered,
    InternalError,
    NoAnswer,
    NoSubscription,
    NotActive,
    Outcome,
    Refused,
    StoresUnreachable,
    TooOld,
)
from delivery_stream.masking import without_secrets
from delivery_stream.request import build_request
from shared.clock import Clock
from shared.records import Delivery, Record
from shared.subscriptions import Absent, Found, Subscription, Unreachable
from shared.topics import RetrySchedule, Topics

log = logging.getLogger(__name__)


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
