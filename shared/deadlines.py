"""Many deadlines on few timers: a timer of its own for each send costs as much as the send."""

from __future__ import annotations

import asyncio
from typing import Any

#: How late a deadline may be.
_TICK_S = 0.05


class Deadlines:
    """Futures that fail with TimeoutError when their time is up, at most 50 ms late."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[Any]]] = {}

    def add(self, future: asyncio.Future[Any], ends_s: float) -> set[asyncio.Future[Any]]:
        """``ends_s`` by the loop's clock. Whoever has its result takes the future out of the set it is given."""
        tick = int(ends_s / _TICK_S) + 1
        waiting = self._waiting.get(tick)
        if waiting is None:
            waiting = self._waiting[tick] = set()
            future.get_loop().call_at(tick * _TICK_S, self._expire, tick)
        waiting.add(future)
        return waiting

    def _expire(self, tick: int) -> None:
        for future in self._waiting.pop(tick):
            if not future.done():
                future.set_exception(TimeoutError())
