"""One delivery -> one request, in one go or in steps; `conclusion` is the rest of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from delivery_stream.request import Request, build_request
from delivery_stream.sender import Heard, Post
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
    def make(self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float) -> Post | Refused: ...
    def post_soon(self, post: Post, told: Callable[[Heard], None]) -> bool: ...
    async def post_anew(self, post: Post) -> Answered | NoAnswer | Refused: ...


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
    """All of it, for what is not `prepare`d; `conclude` must follow.

    The caller marks the offset done when Kafka has confirmed what that gives: a crash on any line repeats the attempt,
    and never loses it.
    """
    subscription = await subscription_of(delivery, io)
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
    try:
        request = _request(delivery, subscription, io, now_ms)
        if not isinstance(request, Request):
            return request
        timeout_s = _timeout_s(subscription, io)
        outcome = await io.sender.post(request.url, request.headers, delivery.payload, timeout_s)
        return without_secrets(outcome, subscription, request)
    except Exception as error:  # noqa: BLE001 - it is logged there
        return _internal_error(delivery, error)


def _request(
    delivery: Delivery, subscription: Subscription, io: DeliverIO, now_ms: int
) -> Request | TooOld | NotActive | Refused:
    """Its request, or why it has none."""
    if expired(delivery, now_ms, io):
        return TooOld()
    if subscription.status != "active":
        return NotActive(subscription.status)
    return build_request(delivery, subscription, now_ms)


def _timeout_s(subscription: Subscription, io: DeliverIO) -> float:
    return subscription.timeout_seconds or io.timeout_s


def _internal_error(delivery: Delivery, error: Exception) -> InternalError:
    facts = {"webhook_id": delivery.webhook_id, "attempt": delivery.attempt}
    log.error("internal error", exc_info=error, extra=facts)
    return InternalError(type(error).__name__)


# The main path: the same in steps, without a task for each (docs/decisions/0016).


class Prepared(NamedTuple):
    """A delivery whose request is made."""

    delivery: Delivery
    subscription: Subscription
    request: Request
    post: Post
    started_ms: int


def prepare(delivery: Delivery, io: DeliverIO) -> Prepared | None:
    """Its request. None: it has none, or that takes more than what is in memory; `deliver` it."""
    known = io.subscriptions.peek(delivery.subscription_id)
    if not isinstance(known, Found):
        return None
    subscription, started_ms = known.subscription, io.clock.now_ms()
    try:
        request = _request(delivery, subscription, io, started_ms)
        if not isinstance(request, Request):
            return None
        post = io.sender.make(request.url, request.headers, delivery.payload, _timeout_s(subscription, io))
    except Exception:  # noqa: BLE001 - `deliver` will tell what it is
        return None
    return None if isinstance(post, Refused) else Prepared(delivery, subscription, request, post, started_ms)


def post_soon(prepared: Prepared, io: DeliverIO, told: Callable[[Ended | None], None]) -> bool:
    """`Sender.post_soon`, with what it comes to for the delivery. False, or None later: `post_anew` must follow."""
    return io.sender.post_soon(prepared.post, partial(_hear, prepared, told))


async def post_anew(prepared: Prepared, io: DeliverIO) -> Ended:
    """`Sender.post_anew`, with what it comes to for the delivery. Raises nothing but cancellation."""
    try:
        outcome: Outcome | Exception = await io.sender.post_anew(prepared.post)
    except Exception as error:  # noqa: BLE001 - it is logged below
        outcome = error
    return _ended(prepared, outcome)


def _hear(prepared: Prepared, told: Callable[[Ended | None], None], heard: Heard) -> None:
    told(None if heard is None else _ended(prepared, heard))


def _ended(prepared: Prepared, outcome: Outcome | Exception) -> Ended:
    delivery, subscription, request, _, started_ms = prepared
    if isinstance(outcome, Exception):
        outcome = _internal_error(delivery, outcome)
    try:
        outcome = without_secrets(outcome, subscription, request)
    except Exception as error:  # noqa: BLE001 - it is logged there
        outcome = _internal_error(delivery, error)
    return Ended(delivery, subscription, outcome, started_ms)
