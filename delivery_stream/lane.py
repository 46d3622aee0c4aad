"""Pure: one endpoint's lane: how many requests at once, how fast, and when what cannot go now shall come back.

Times are seconds of a monotonic clock, passed in. Nothing here waits or sends.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Literal, Protocol, TypeVar

from delivery_stream.breaker import Breaker, BreakerState
from delivery_stream.token_bucket import TokenBucket
from shared.attempt_records import WaitReason

#: What a request told of its endpoint: it works; it asks for less; it does not answer in time; it is broken; nothing.
Health = Literal["works", "throttles", "times_out", "fails", "unknown"]

#: A few at once until the endpoint has shown that it takes more.
FIRST_WINDOW = 4
#: An endpoint that takes longer than this is slow: it must not hold what the others need.
SLOW_S = 1.0
#: Of a fast lane: more are back-pressure. Slower lanes overflow before, by time.
QUEUE_MAX = 512
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
#: A rate limit is kept for as long as this; a lane's own pace may change, and is trusted for longer with every wait.
_LONGEST_LIMITED_WAIT_S = 24 * 3600.0
_FIRST_HORIZON_S = 5.0
_LONGEST_HORIZON_S = 600.0
#: A long backlog alone makes no horizon longer that is as long as this: it may be gone in a moment.
_LONG_ENOUGH_S = 60.0
#: What a shut lane keeps out comes back one by one: nobody knows yet how many it will take, or whether any.
_COMES_BACK_EVERY_S = 0.05
_SMOOTHING = 0.2
#: So many times faster a lane may become, for a guess at how soon a record gets its turn.
_GROWTH = 4
#: Who answered within so many times its usual time, and a moment, is still there.
_STILL_THERE = 4
_MOMENT_S = 0.05

#: The `state` of a lane that nobody needs to hear of.
QUIET: tuple[BreakerState, bool] = ("closed", False)

_WORDS: dict[Health, str] = {
    "throttles": "answers 429 or 503",
    "times_out": "does not answer in time",
    "fails": "fails",
}


class Queued(Protocol):
    """What a lane needs to know of what waits in it."""

    queued_s: float


_Q = TypeVar("_Q", bound=Queued)


class Lane(Generic[_Q]):
    """``may_start`` before a request, ``started`` with it, ``ended`` after it."""

    __slots__ = (
        "_answered_s",
        "_asked_s",
        "_began_s",
        "_bucket",
        "_doubles",
        "_kept_out",
        "_latency_s",
        "_not_before_s",
        "_pause_s",
        "_shrunk_s",
        "_since_s",
        "_slot_s",
        "_slow_once_s",
        "_window",
        "apart",
        "breaker",
        "failing",
        "in_doubt",
        "key",
        "last_trouble",
        "limited",
        "overdue",
        "proven",
        "queue",
        "shown",
        "shown_s",
        "slow",
        "subscription",
        "target",
        "window",
        "window_max",
    )

    def __init__(self, key: str, window_max: int, now_s: float) -> None:
        self.key = key
        self.window_max = window_max
        #: What its limits and its URL were last read from, for who asks whether there is a newer one.
        self.subscription: object | None = None
        #: The URL that it leads to, once that is known.
        self.target: str | None = None
        #: Its subscription's own limits were told.
        self.limited = False
        self.queue: deque[_Q] = deque()
        #: Of its requests, those that are older than `SLOW_S` (`Lanes` counts).
        self.overdue = 0
        #: Of its requests, those that began after it had not answered for a while (`Lanes` counts).
        self.in_doubt = 0
        #: Its requests are counted among those that hold at most half of all slots (`Lanes` counts).
        self.apart = True
        #: Its `state` when people were last told of it, and when that was; None: not since it is ours.
        self.shown: tuple[BreakerState, bool] | None = None
        self.shown_s = now_s
        self._since_s: dict[object, float] = {}
        self._bucket: TokenBucket | None = None
        self.begin(now_s)

    def begin(self, now_s: float) -> None:
        """Nothing is known of the endpoint; what is under way tells nothing of it."""
        self._began_s = now_s
        self.breaker = Breaker(now_s)
        #: It has answered since it is ours.
        self.proven = False
        #: It timed out, asked for less, or took longer than `SLOW_S`.
        self.slow = False
        #: The last request told that it fails.
        self.failing = False
        #: What that was, for people.
        self.last_trouble: str | None = None
        self._set_window(min(FIRST_WINDOW, self.window_max))
        self._doubles = True  # the window doubles with each round trip until there was trouble once
        self._answered_s = 0.0
        self._shrunk_s = -1.0
        self._slow_once_s = math.inf
        self._latency_s = 0.0
        self._not_before_s = 0.0
        self._asked_s = 0.0  # from the answer that asked for it to `_not_before_s`
        self._pause_s = 0.0
        self._kept_out = 0  # records, since the last trouble
        self._slot_s = 0.0

    # ---- what is set from outside -----------------------------------------------------------------------------------

    def limit(self, rate: float | None, window_max: int, now_s: float) -> None:
        """The subscription's own limits, as they are now."""
        if window_max != self.window_max or not self.limited:
            self.limited, self.window_max = True, window_max
            self._set_window(min(self._window, window_max))
        if (self._bucket.rate if self._bucket else None) != rate:
            self._bucket = TokenBucket(rate, now_s) if rate else None
            self._slot_s = 0.0

    def limit_unknown(self) -> None:
        """Its subscription's limits are not in memory: one at a time, unless they were told before."""
        if not self.limited:
            self.window = 1

    # ---- one request ------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._since_s)

    @property
    def trusted(self) -> bool:
        """It answers, and quickly: its requests will not hold their slots for long."""
        return self.proven and not self.slow and not self.overdue

    def answering(self, now_s: float) -> bool:
        """It did just now: what it has under way will end."""
        return now_s - self._answered_s <= _STILL_THERE * self._latency_s + _MOMENT_S

    def may_start(self, now_s: float) -> bool:
        """Whether this endpoint takes one more."""
        if len(self._since_s) >= self.window or now_s < self._not_before_s or not self.breaker.allows(now_s):
            return False
        return self._bucket is None or self._bucket.wait_s(now_s) <= 0

    def started(self, request: object, now_s: float) -> None:
        """A request that was allowed is under way."""
        self._since_s[request] = now_s
        self.breaker.started()
        if self._bucket is not None:
            self._bucket.take(now_s)

    def ended(
        self, request: object, health: Health, now_s: float, *, asked_s: float = 0.0, ours_s: float = 0.0
    ) -> None:
        """It is over. ``asked_s``: how long the endpoint asked to be left alone. ``ours_s``: of its time, our fault."""
        full = len(self._since_s) >= self.window
        started_s = self._since_s.pop(request)
        if health == "unknown" or started_s < self._began_s:
            self.breaker.told_nothing(started_s)
            return
        took_s = max(now_s - started_s - ours_s, 0.0)
        self._latency_s += (_SMOOTHING if self.proven else 1.0) * (took_s - self._latency_s)
        self.proven = True
        if health == "works":
            self._works(started_s, now_s)
        else:
            self._does_not(health, started_s, now_s, asked_s)
        if health in ("throttles", "times_out"):
            self._shrink(started_s, now_s)
        elif took_s >= SLOW_S:
            # One answer that was slow may be a start or a hiccup; a second one, asked for after it, is not.
            if self.slow or started_s > self._slow_once_s:
                self.last_trouble = self.last_trouble if self.failing else "takes long to answer"
                self.slow = True
            self._slow_once_s = min(self._slow_once_s, now_s)
            # Who needs 5 s for each and gets one at a time never keeps up: slow is no reason for less, only for apart.
            if health == "works" and (full or self.queue):
                self._grow()
        elif health == "works":
            self.slow, self._slow_once_s = False, math.inf
            if full or self.queue:
                self._grow()

    def _works(self, started_s: float, now_s: float) -> None:
        self._answered_s = now_s
        self.failing, self._pause_s = False, 0.0
        self.breaker.succeeded(started_s, now_s)

    def _does_not(self, health: Health, started_s: float, now_s: float, asked_s: float) -> None:
        self.failing, self.last_trouble = True, _WORDS[health]
        self._kept_out = 0
        self.breaker.failed(started_s, now_s)
        if health == "throttles":
            self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            pause_s = max(asked_s, self._pause_s)
            if now_s + pause_s > self._not_before_s:
                self._not_before_s, self._asked_s = now_s + pause_s, pause_s

    def _grow(self) -> None:
        """Only what is used grows: an endpoint that needs two at once and dies shall not hang with a hundred."""
        if self._window < self.window_max:
            step = 1.0 if self._doubles else 1.0 / self._window
            self._set_window(min(self._window + step, self.window_max))

    def _shrink(self, started_s: float, now_s: float) -> None:
        """Once a round trip: requests that were under way together tell one thing and not several."""
        self.slow, self._doubles = True, False
        if started_s > self._shrunk_s:
            self._set_window(max(self._window / 2, 1.0))
            self._shrunk_s = now_s

    def _set_window(self, window: float) -> None:
        self._window = float(window)
        #: How many may be under way at once, at present.
        self.window = max(int(window), 1)

    # ---- what has to wait -------------------------------------------------------------------------------------------

    def wait_s(self, now_s: float) -> float:
        """How long one more would wait in the queue, as far as can be told."""
        return self.closed_s(now_s) + (len(self.queue) + 1) * self._spacing_s(now_s)

    def reason(self, now_s: float) -> WaitReason:
        """What it is that one more waits for."""
        if self.breaker.state != "closed":
            return "breaker_open"
        if now_s < self._not_before_s:
            return "throttled"
        limited = self._bucket is not None and (self._bucket.wait_s(now_s) > 0 or self.has_backlog(now_s))
        return "rate_limited" if limited else "busy"

    def has_backlog(self, now_s: float) -> bool:
        """Of a rate: times that are promised to others. A newcomer comes after them."""
        return self._bucket is not None and self._slot_s > now_s + self._bucket.interval_s

    def book(self, now_s: float, waits: int) -> float:
        """A time of its own for a record that must wait elsewhere, in seconds from now: N of them come back spread out.

        ``waits``: how often it did already. At a rate its first time is its turn, and when it comes early it waits for
        the queue alone. Where only the endpoint's own pace is known, that may be another by then: times lie in the
        second half of a horizon that doubles with every wait, so that an endpoint that recovers is not left idle, and a
        long backlog does not go round and round; who would have to come back several times before its turn gets more at
        once. What a shut lane keeps out has no pace either, and has a horizon of at least the time that it is shut for.
        """
        shut_for_s = self._shut_for_s(now_s)
        if self._bucket is not None and not (waits and shut_for_s):
            return self._book_turn(now_s, waits)
        closed_s, early_s = self.closed_s(now_s), 0.0
        if shut_for_s:
            wait_s = self._kept_out * _COMES_BACK_EVERY_S
            self._kept_out += 1
        else:
            wait_s = max(self._book_slot(now_s) - closed_s, 0.0)
            early_s = min(wait_s / _GROWTH, _LONG_ENOUGH_S)
        # Who has not answered yet, or fails, will hardly do better in a moment.
        doubled = waits + (self.failing or not self.proven)
        horizon_s = max(_FIRST_HORIZON_S * 2.0 ** min(doubled, 20), shut_for_s)
        while horizon_s < early_s:
            horizon_s *= 2
        half_s = min(horizon_s, _LONGEST_HORIZON_S) / 2
        if wait_s > half_s:
            wait_s = half_s + wait_s % half_s
        return min(closed_s + wait_s, _LONGEST_LIMITED_WAIT_S)

    @property
    def idle(self) -> bool:
        """Nothing is under way and nothing waits."""
        return not self._since_s and not self.queue

    def forgettable(self, now_s: float) -> bool:
        """A new lane would do as well: nothing bad is known of this one, and nothing is promised."""
        return self.idle and not self.slow and not self.failing and self._slot_s <= now_s and self.closed_s(now_s) <= 0

    @property
    def state(self) -> tuple[BreakerState, bool]:
        """What people want to see of it: the breaker (a probe is not worth a word), and whether it is slow."""
        if self.breaker.state == "closed":
            return ("closed", True) if self.slow else QUIET
        return "open", self.slow

    @property
    def words(self) -> tuple[Literal["open", "slow"], ...]:
        """The same in words; none when all is well."""
        breaker, slow = self.state
        return (*(("open",) if breaker == "open" else ()), *(("slow",) if slow else ()))

    def closed_s(self, now_s: float) -> float:
        """Until anything may start, whatever is under way."""
        bucket_s = self._bucket.wait_s(now_s) if self._bucket else 0.0
        return max(self._not_before_s - now_s, self.breaker.wait_s(now_s), bucket_s, 0.0)

    def _book_turn(self, now_s: float, waits: int) -> float:
        """At a rate."""
        wait_s = self.wait_s(now_s) if waits else self._book_slot(now_s)
        if wait_s >= _LONGEST_LIMITED_WAIT_S:
            self._slot_s = min(self._slot_s, now_s + _LONGEST_LIMITED_WAIT_S)
        return min(wait_s, _LONGEST_LIMITED_WAIT_S)

    def _book_slot(self, now_s: float) -> float:
        """The next departure that is nobody's yet, in seconds from now."""
        slot_s = max(self._slot_s, now_s + self.wait_s(now_s))
        self._slot_s = slot_s + self._spacing_s(now_s)
        return slot_s - now_s

    def _shut_for_s(self, now_s: float) -> float:
        """How long the breaker, or what the endpoint asked for, keeps it shut, from start to end; 0: it is not shut."""
        asked_s = self._asked_s if now_s < self._not_before_s else 0.0
        return max(asked_s, self.breaker.open_s if self.breaker.wait_s(now_s) > 0 else 0.0)

    def _spacing_s(self, now_s: float) -> float:
        """Between two departures. Who has not answered for a while is at least as slow as that."""
        oldest_s = now_s - next(iter(self._since_s.values())) if self._since_s else 0.0
        at_once = self.window if self.slow or self.failing else min(_GROWTH * self.window, self.window_max)
        drain_s = max(self._latency_s, oldest_s) / at_once
        return max(drain_s, self._bucket.interval_s) if self._bucket else drain_s
