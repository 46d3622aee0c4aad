"""Pure: all lanes of one worker, and the slots they share.

Slots are given in turn, one request to each lane that can use it. Requests that may take long, because their endpoint
is slow, broken, or not known yet, hold at most half of them; with those to endpoints that worked and are silent since,
three quarters (docs/decisions/0017). So any number of dead endpoints leaves room for those that answer. Times are
seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from delivery_stream.lane import QUEUE_MAX, QUIET, SLOW_S, Health, Lane
from shared.attempt_records import WaitReason

#: How often `tick` wants to be called.
TICK_S = 0.05
#: Of all lanes together, what waits for its turn.
WAITING_MAX = 8192
WAITING_MAX_BYTES = 64 * 1024 * 1024
#: Of one lane, while those that may take long have no slot left.
_CROWDED_QUEUE_MAX = 32
#: A lane that flaps is told of this often.
SHOWN_EVERY_S = 2.0
#: Of one lane at a time: a burst of these would itself be what holds the others up.
_OVERFLOW_A_TICK = 100
#: Ticks that come later than this on the average: we are too slow ourselves, and no endpoint is to blame.
_BUSY_LAG_S = 0.02
_LAG_SMOOTHING = 0.2
#: After a hand-over all that is new is read and opened at once. So long, whoever waits is said to wait for us.
_COLD_S = 2 * SLOW_S
#: Lanes that are remembered; a forgotten one begins anew.
LANES_MAX = 50_000


class Entry(Protocol):
    """One record on its way through a lane."""

    queued_s: float
    #: Of its request, from start to end.
    timeout_s: float
    size_bytes: int

    @property
    def waits(self) -> int:
        """How often it was put off already."""
        ...


_E = TypeVar("_E", bound=Entry)


class Verdict(Enum):
    """What is to be done with a record now."""

    START = "start"
    QUEUED = "queued"
    #: See `put_off`.
    WAIT = "wait"
    #: No room: ask again when something has ended.
    FULL = "full"


class PutOff(NamedTuple, Generic[_E]):
    """This record shall come back in so many seconds."""

    entry: _E
    wait_s: float
    reason: WaitReason


@dataclass(slots=True)
class _Flight(Generic[_E]):
    """A request: under way or over, counted as old or not."""

    lane: Lane[_E]
    started_s: float
    #: `Lanes._held_up_s` at its start.
    held_up_s: float
    old: bool = False
    over: bool = False


class Lanes(Generic[_E]):
    """``admit`` each record; ``ended`` after each request; ``startable`` whenever something has changed."""

    def __init__(self, *, max_in_flight: int, max_per_endpoint: int, patience_s: float, lanes_max: int = LANES_MAX):
        """``patience_s``: what would wait longer for its turn waits elsewhere."""
        self._max_in_flight = max_in_flight
        self._max_apart = max(max_in_flight // 2, 1)
        self._max_silent = max(3 * max_in_flight // 4, 1)
        self._max_per_endpoint = max_per_endpoint
        self._patience_s = patience_s
        self._lanes_max = lanes_max
        self._lanes: OrderedDict[str, Lane[_E]] = OrderedDict()
        #: Those with something to start, as far as is known, in the order of their turns.
        self._ready: OrderedDict[Lane[_E], None] = OrderedDict()
        #: Those that wait for one of the slots of requests that may take long.
        self._crowd: OrderedDict[Lane[_E], None] = OrderedDict()
        self._queued: OrderedDict[Lane[_E], None] = OrderedDict()
        self._flights: dict[_E, _Flight[_E]] = {}
        self._young: deque[_Flight[_E]] = deque()
        self._changed: set[Lane[_E]] = set()
        #: Lanes that are slow or broken.
        self.loud: set[Lane[_E]] = set()
        self._unconfirmed = 0
        self._apart = 0
        #: Requests to endpoints that answered once but not of late: they may be dead since.
        self._in_doubt = 0
        #: Requests under way that are older than `SLOW_S`.
        self.overdue = 0
        self._busy_lanes = 0
        self._ticked_s: float | None = None
        self._held_up_s = 0.0
        self._lag_s = 0.0
        self._cold_until_s = 0.0
        self.waiting = 0
        self.waiting_bytes = 0

    # ---- looking ----------------------------------------------------------------------------------------------------

    @property
    def max_in_flight(self) -> int:
        return self._max_in_flight

    @property
    def in_flight(self) -> int:
        """Slots that are taken: requests under way, and outcomes that are not on record yet."""
        return len(self._flights) + self._unconfirmed

    @property
    def apart(self) -> int:
        """Requests under way that may take long."""
        return self._apart

    def overdue_s(self, now_s: float) -> float:
        """How long the worst request has been under way beyond twice what it may take; 0: none."""
        return max((now_s - one.started_s - 2 * e.timeout_s for e, one in self._flights.items()), default=0.0)

    def __iter__(self) -> Iterator[Lane[_E]]:
        return iter(self._lanes.values())

    def lane(self, key: str, now_s: float) -> Lane[_E]:
        """The lane of an endpoint; a new one begins with few at once."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, self._max_per_endpoint, now_s)
            if len(self._lanes) > self._lanes_max:
                self._forget_one(now_s)
        else:
            self._lanes.move_to_end(key)
        return lane

    def keep(self, is_ours: Callable[[str], bool], now_s: float) -> None:
        """After a hand-over: only these lanes go on, what the others had under way ends unseen, and for two seconds no
        endpoint is blamed that had no time to answer."""
        for key in [key for key in self._lanes if not is_ours(key)]:
            self._forget(key)
        self._cold_until_s = now_s + _COLD_S

    # ---- one record -------------------------------------------------------------------------------------------------

    def limit(self, lane: Lane[_E], rate: float | None, max_in_flight: int | None, now_s: float) -> None:
        """The subscription's own limits, within everybody's."""
        most = self._max_per_endpoint if max_in_flight is None else min(max_in_flight, self._max_in_flight)
        lane.limit(rate, most, now_s)

    def aim(self, lane: Lane[_E], target: str, now_s: float) -> None:
        """The URL that it leads to now. Another one is another endpoint, and a lane like a new one."""
        if target == lane.target:
            return
        known, lane.target = lane.target is not None, target
        if known:
            lane.begin(now_s)
            self._look_again(lane)
            self.loud.discard(lane)
            if lane.state != (lane.shown or QUIET):
                self._changed.add(lane)

    @property
    def queued(self) -> list[Lane[_E]]:
        """Those in which something waits."""
        return list(self._queued)

    def admit(self, entry: _E, lane: Lane[_E], now_s: float) -> Verdict:
        """Whether it starts, waits for its turn, or must wait elsewhere (`put_off`)."""
        if lane.has_backlog(now_s) and not entry.waits:
            return Verdict.WAIT
        if not lane.queue and self._may_start(lane, now_s):
            return Verdict.START
        crowded = self._crowded(lane, now_s)
        must_wait = bool(lane.queue) or crowded or not lane.may_start(now_s)
        if must_wait and lane.wait_s(now_s) > self._patience_s and not self._is_our_fault(lane, now_s):
            return Verdict.WAIT
        if crowded and len(lane.queue) >= _CROWDED_QUEUE_MAX:
            return Verdict.FULL if self._is_cold(lane, now_s) else Verdict.WAIT
        if (
            len(lane.queue) >= QUEUE_MAX
            or self.waiting >= WAITING_MAX
            or (self.waiting_bytes + entry.size_bytes > WAITING_MAX_BYTES and self.waiting)
            or (self.in_flight >= self._max_in_flight and self.waiting >= QUEUE_MAX)
        ):
            return Verdict.FULL
        self._queue(entry, lane, now_s)
        return Verdict.QUEUED

    def put_off(self, entry: _E, lane: Lane[_E], now_s: float) -> PutOff[_E]:
        """When a record that may not go now shall come back."""
        return PutOff(entry, lane.book(now_s, entry.waits), lane.reason(now_s))

    def start(self, entry: _E, lane: Lane[_E], now_s: float) -> None:
        """Its request is under way from now on."""
        if not lane.in_flight:
            self._busy_lanes += 1
        if not (lane.apart or lane.answering(now_s)):
            lane.in_doubt += 1
            self._in_doubt += 1
        lane.started(entry, now_s)
        self._apart += lane.apart
        flight = self._flights[entry] = _Flight(lane, now_s, self._held_up_s)
        self._young.append(flight)

    def ended(self, entry: _E, health: Health, now_s: float, *, asked_s: float = 0.0) -> None:
        """Its request is over; its slot is free when what came of it is `confirmed`."""
        self._unconfirmed += 1
        flight = self._flights.pop(entry)
        flight.over, lane = True, flight.lane
        self._apart -= lane.apart
        lane.overdue -= flight.old
        self.overdue -= flight.old
        lane.ended(entry, health, now_s, asked_s=asked_s, ours_s=self._held_up_s - flight.held_up_s)
        self._doubt_no_more(lane)
        if not lane.in_flight:
            self._busy_lanes -= 1
        self._look_again(lane)
        if lane.queue:
            self._ready[lane] = None
        if self._crowd:
            self._ready.setdefault(self._crowd.popitem(last=False)[0])
        state = lane.state
        if state != lane.shown and lane.proven:
            self._changed.add(lane)
        if state == QUIET:
            self.loud.discard(lane)
        else:
            self.loud.add(lane)

    def confirmed(self) -> None:
        """What came of an ended request is on record."""
        self._unconfirmed -= 1

    def changes(self, now_s: float) -> Iterator[Lane[_E]]:
        """Lanes whose state is another than people were told, each at most every few seconds."""
        for lane in [lane for lane in self._changed if now_s - lane.shown_s >= SHOWN_EVERY_S]:
            self._changed.discard(lane)
            if lane.state != lane.shown:
                lane.shown, lane.shown_s = lane.state, now_s
                yield lane

    def startable(self, now_s: float) -> Iterator[_E]:
        """What waited and starts now, each already counted as under way: in turn, one request of each lane."""
        short_of_slots: list[Lane[_E]] = []
        while self._ready and self.in_flight < self._max_in_flight:
            lane, _none = self._ready.popitem(last=False)
            if lane.queue and self._may_start(lane, now_s):
                entry = self._unqueue(lane)
                self.start(entry, lane, now_s)
                if lane.queue:
                    self._ready[lane] = None
                yield entry
            elif lane.queue and self._crowded(lane, now_s):
                self._crowd.setdefault(lane)
            elif lane.queue and lane.may_start(now_s):
                short_of_slots.append(lane)
        for lane in short_of_slots:
            if lane.queue:
                self._ready[lane] = None

    def tick(self, now_s: float) -> Iterator[PutOff[_E]]:
        """A few times a second: what grew old, whose time has come; gives what has waited long enough here."""
        self._note_lag(now_s)
        self._grow_old(now_s)
        self._crowd.clear()
        for lane in list(self._queued):
            if now_s - lane.queue[0].queued_s > self._patience_s:
                yield from islice(self._overflow(lane, now_s), _OVERFLOW_A_TICK)
            if lane.queue:
                self._ready.setdefault(lane)

    def drop(self, is_gone: Callable[[_E], bool]) -> None:
        """These wait no longer: another worker will have them."""
        for lane in list(self._queued):
            for _ in range(len(lane.queue)):
                entry = self._unqueue(lane)
                if not is_gone(entry):
                    self._queue(entry, lane, entry.queued_s)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _may_start(self, lane: Lane[_E], now_s: float) -> bool:
        if self.in_flight >= self._max_in_flight or not lane.may_start(now_s):
            return False
        if self._crowded(lane, now_s):
            return False
        if self.in_flight < self._max_in_flight - self._max_apart or lane.answering(now_s):
            return True
        # Once half is taken, who has gone silent takes no more than a fair part of the rest, and all of them together
        # leave some of it to those that answer: many may die at once.
        fair = max(self._max_apart // max(self._busy_lanes, 1), 1)
        return lane.in_flight < fair and self._apart + self._in_doubt < self._max_silent

    def _crowded(self, lane: Lane[_E], now_s: float) -> bool:
        """Too many that may take long are under way for it to go now, or soon.

        Who fails or is slow leaves room for who is only unknown, and who has gone silent for who answers.
        """
        if not lane.apart:
            return self._apart >= self._max_silent and not lane.answering(now_s)
        known_bad = lane.failing or lane.slow
        return self._apart >= (max(self._max_apart // 2, 1) if known_bad else self._max_apart)

    def _is_cold(self, lane: Lane[_E], now_s: float) -> bool:
        """A hand-over was just now, and neither this endpoint nor most of the crowd had the time to answer."""
        return now_s < self._cold_until_s and not lane.proven and not lane.overdue and 2 * self.overdue < self._apart

    def _queue(self, entry: _E, lane: Lane[_E], now_s: float) -> None:
        entry.queued_s = now_s
        lane.queue.append(entry)
        self._queued.setdefault(lane)
        self._ready.setdefault(lane)
        self.waiting += 1
        self.waiting_bytes += entry.size_bytes

    def _unqueue(self, lane: Lane[_E], *, last: bool = False) -> _E:
        entry = lane.queue.pop() if last else lane.queue.popleft()
        self.waiting -= 1
        self.waiting_bytes -= entry.size_bytes
        if not lane.queue:
            del self._queued[lane]
            self._ready.pop(lane, None)
            self._crowd.pop(lane, None)
        return entry

    def _overflow(self, lane: Lane[_E], now_s: float) -> Iterator[PutOff[_E]]:
        """When its head has waited long enough: from the end, what the lane's pace leaves here; of a dead one, all."""
        while lane.queue and now_s - lane.queue[0].queued_s > self._patience_s:
            crowded = self._crowded(lane, now_s)
            if lane.may_start(now_s) and not crowded:
                return
            if lane.trusted and not crowded and lane.wait_s(now_s) <= self._patience_s:
                return
            if self._is_our_fault(lane, now_s):
                return
            entry = self._unqueue(lane, last=True)
            yield self.put_off(entry, lane, now_s)

    def _note_lag(self, now_s: float) -> None:
        if self._ticked_s is not None:
            late_s = max(now_s - self._ticked_s - TICK_S, 0.0)
            self._held_up_s += late_s
            self._lag_s += _LAG_SMOOTHING * (min(late_s, 1.0) - self._lag_s)
        self._ticked_s = now_s

    def _is_our_fault(self, lane: Lane[_E], now_s: float) -> bool:
        """The lane waits for us: putting off what it holds would make us slower still. It is back-pressure instead."""
        slow = lane.slow or lane.overdue or lane.reason(now_s) != "busy"
        return (self._lag_s > _BUSY_LAG_S or now_s < self._cold_until_s) and not slow

    def _grow_old(self, now_s: float) -> None:
        while self._young:
            flight = self._young[0]
            ours_s = self._held_up_s - flight.held_up_s
            if now_s - flight.started_s - ours_s < SLOW_S:
                return
            self._young.popleft()
            if not flight.over:
                flight.old = True
                flight.lane.overdue += 1
                self.overdue += 1
                self._look_again(flight.lane)

    def _look_again(self, lane: Lane[_E]) -> None:
        """Count its requests on the side where they belong now."""
        apart = not lane.trusted
        if apart != lane.apart:
            lane.apart = apart
            self._doubt_no_more(lane)
            self._apart += lane.in_flight if apart else -lane.in_flight

    def _doubt_no_more(self, lane: Lane[_E]) -> None:
        """It has been heard of, or is counted apart now."""
        self._in_doubt -= lane.in_doubt
        lane.in_doubt = 0

    def _forget_one(self, now_s: float) -> None:
        """The one not used for longest that has nothing worth keeping, among the first few."""
        for number, (key, lane) in enumerate(self._lanes.items()):
            if lane.forgettable(now_s) or (number >= 64 and lane.idle):
                self._forget(key)
                return

    def _forget(self, key: str) -> None:
        lane = self._lanes.pop(key)
        self._changed.discard(lane)
        self.loud.discard(lane)
