"""Pure: a circuit breaker. Closed until an endpoint fails too often, then open, then one probe decides.

What began before it last opened tells nothing of the endpoint as it is now, whenever it ends. Times are seconds of a
monotonic clock, passed in.
"""

from __future__ import annotations

import math
from typing import Literal

BreakerState = Literal["closed", "open", "half_open"]

#: So many failures in a row open it; fewer would close down a new endpoint whose first event or two cannot be read.
FAILURES_IN_A_ROW = 10
#: Or more than half of what ended lately, when that was enough to tell.
RATIO_OF = 20
RATIO = 0.5
_RATIO_WINDOW_S = 15.0  # this window and the one before it are looked at: 15 to 30 s
FIRST_OPEN_S = 5.0
LONGEST_OPEN_S = 300.0
#: How soon to ask again while the probe is under way.
_PROBE_S = 2.0


class Breaker:
    """``allows`` before a request, ``started`` with it, then one of ``succeeded``, ``failed`` and ``told_nothing``.

    ``started_s``: when the request that ended now began.
    """

    __slots__ = ("_before", "_now", "_open_until_s", "_window_began_s", "in_a_row", "open_s", "state")

    def __init__(self, now_s: float) -> None:
        #: Half open: its probe is under way.
        self.state: BreakerState = "closed"
        #: Failures since the last success.
        self.in_a_row = 0
        #: From the last time it opened to its probe; 0: it is closed.
        self.open_s = 0.0
        self._open_until_s = -math.inf
        self._window_began_s = now_s
        self._now = (0, 0)  # (ended, failed) in this window
        self._before = (0, 0)

    def allows(self, now_s: float) -> bool:
        """Whether a request may start now."""
        return self.state == "closed" or (self.state == "open" and now_s >= self._open_until_s)

    def wait_s(self, now_s: float) -> float:
        """Until it is worth asking again; 0: now."""
        if self.state == "closed":
            return 0.0
        return _PROBE_S if self.state == "half_open" else max(self._open_until_s - now_s, 0.0)

    def started(self) -> None:
        """A request that was allowed is under way. While not closed, it is the probe."""
        if self.state != "closed":
            self.state = "half_open"

    def succeeded(self, started_s: float, now_s: float) -> None:
        """The endpoint works."""
        if started_s < self._open_until_s:
            return
        self.in_a_row = 0
        if self.state == "closed":
            self._count(now_s, failed=0)
        else:
            self.state, self.open_s = "closed", 0.0
            self._now = self._before = (0, 0)

    def failed(self, started_s: float, now_s: float) -> None:
        """It does not."""
        if started_s < self._open_until_s:
            return
        self.in_a_row += 1
        if self.state == "closed":
            self._count(now_s, failed=1)
            if self.in_a_row >= FAILURES_IN_A_ROW or self._mostly_fails():
                self._open(now_s)
        else:
            self._open(now_s)

    def told_nothing(self, started_s: float) -> None:
        """The request ended for a reason that is not the endpoint's: another one may probe."""
        if self.state == "half_open" and started_s >= self._open_until_s:
            self.state = "open"

    def _open(self, now_s: float) -> None:
        self.state = "open"
        self.open_s = min(max(2 * self.open_s, FIRST_OPEN_S), LONGEST_OPEN_S)
        self._open_until_s = now_s + self.open_s

    def _count(self, now_s: float, failed: int) -> None:
        passed_s = now_s - self._window_began_s
        if passed_s >= _RATIO_WINDOW_S:
            self._before = self._now if passed_s < 2 * _RATIO_WINDOW_S else (0, 0)
            self._now, self._window_began_s = (0, 0), now_s
        self._now = (self._now[0] + 1, self._now[1] + failed)

    def _mostly_fails(self) -> bool:
        ended, failed = self._now[0] + self._before[0], self._now[1] + self._before[1]
        return ended >= RATIO_OF and failed > RATIO * ended
