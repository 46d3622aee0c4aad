"""Pure: what came back (outcomes), what follows (decisions), and decide() between them."""

from __future__ import annotations

from dataclasses import field
from datetime import UTC
from email.utils import parsedate_to_datetime

from delivery_stream.lane import Health
from shared.attempt_records import WaitReason
from shared.frozen import frozen
from shared.topics import RetrySchedule

#: A receiver may ask us to wait this long and no longer.
RETRY_AFTER_MAX_S = 24 * 3600.0
#: How soon a subscription that nobody could tell about is asked for again.
STORES_WAIT_S = 4.0


@frozen
class Timings:
    """Where the time of one attempt went, milliseconds; None: that step was not reached or not needed."""

    total_ms: float = 0.0
    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None
    #: The address that was called.
    address: str | None = None
    #: The request and what was read of the answer, without TLS; None: nothing was sent.
    sent_bytes: int | None = None
    received_bytes: int | None = None


@frozen
class Answered:
    """A whole HTTP answer. ``body`` is its bounded beginning."""

    status: int
    retry_after_s: float = 0.0
    body: bytes = b""
    timings: Timings = field(default_factory=Timings)


@frozen
class NoAnswer:
    """The network, the deadline or the receiver's HTTP failed us. ``error_class`` is one of a few words."""

    error_class: str
    details: str = ""
    timings: Timings = field(default_factory=Timings)


@frozen
class Refused:
    """An address or a URL we are not willing to call; nothing was sent."""

    reason: str
    details: str = ""
    timings: Timings = field(default_factory=Timings)


@frozen
class NoSubscription:
    """It was deleted; nothing was sent."""


@frozen
class NotActive:
    """Its subscription is paused or disabled; nothing was sent."""

    status: str


@frozen
class TooOld:
    """Older than MAX_EVENT_AGE_HOURS; nothing was sent."""


@frozen
class StoresUnreachable:
    """Nobody can tell now whether there is a subscription; nothing was sent."""


@frozen
class InternalError:
    """Our own fault while handling this record."""

    details: str


Outcome = Answered | NoAnswer | Refused | NoSubscription | NotActive | TooOld | StoresUnreachable | InternalError


@frozen
class Delivered:
    """The receiver has it."""


@frozen
class RetryIn:
    """Into the tier of ``delay_s``; not before ``at_least_s`` when the receiver asked for longer than the tier."""

    delay_s: int
    at_least_s: float = 0.0


@frozen
class DeadLetter:
    """The last hop, with its reason."""

    reason: str


@frozen
class Cancelled:
    """Nobody wants it any more."""

    reason: str


@frozen
class Park:
    """Kept until its subscription is resumed."""


@frozen
class Wait:
    """It comes back in ``wait_s`` seconds or a little later; no attempt is counted."""

    wait_s: float
    reason: WaitReason


Decision = Delivered | RetryIn | DeadLetter | Cancelled | Park | Wait


def decide(outcome: Outcome, attempt: int, schedule: RetrySchedule) -> Decision:
    """What follows an attempt. Raises nothing.

    ``attempt`` counts from 1: three tiers allow four attempts. ``Retry-After`` (RFC 9110 section 10.2.3) is a floor on
    the wait and changes no count: the next failure returns to its own number's tier.
    """
    match outcome:
        case Answered(status=status) if 200 <= status < 300:
            return Delivered()
        case Answered(status=410):
            return DeadLetter("gone")
        case Refused(reason=reason):
            return DeadLetter(reason)
        case TooOld():
            return DeadLetter("expired")
        case NoSubscription():
            return Cancelled("subscription deleted")
        case NotActive():
            return Park()
        case StoresUnreachable():
            return Wait(STORES_WAIT_S, "stores_unreachable")
        case Answered(retry_after_s=at_least_s):
            return _retry(attempt, schedule, at_least_s)
        case NoAnswer() | InternalError():
            return _retry(attempt, schedule, 0.0)


def health_of(outcome: Outcome) -> Health:
    """What an outcome tells of its endpoint. One that refuses what it is sent (4xx) or sends us on (3xx) is there."""
    match outcome:
        case Answered(status=429 | 503):
            return "throttles"
        case Answered(status=status):
            return "fails" if status >= 500 else "works"
        case NoAnswer(error_class="timeout" | "connect_timeout"):
            return "times_out"
        case NoAnswer():
            return "fails"
        case _:
            return "unknown"


def retry_after_s(text: str | None, now_ms: int) -> float:
    """Seconds a ``Retry-After`` asks for (seconds or HTTP date), 0 to 24 h; 0 for garbage, absent or past.

    A date that names no zone is UTC, as all HTTP dates are (RFC 9110 section 5.6.7).
    """
    if not text:
        return 0.0
    text = text.strip()
    if text.isascii() and text.isdigit():
        # Any number of digits is a float, be it infinite: a head full of them takes 17 us.
        return min(float(text), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        wait_s = at.timestamp() - now_ms / 1000
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S)


def _retry(attempt: int, schedule: RetrySchedule, at_least_s: float) -> Decision:
    delay_s = schedule.tier_after(attempt, at_least_s)
    return DeadLetter("exhausted") if delay_s is None else RetryIn(delay_s, at_least_s)
