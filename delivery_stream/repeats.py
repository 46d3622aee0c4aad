"""A bounded memory of what is under way and what is finished, so that a second copy of a record does nothing.

Copies come from crashes and hand-overs: at least once is what Kafka gives. What this memory forgets is repeated, and
the receiver sees the same webhook-id.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

#: About 30 MB of keys; at 300 attempts a second a memory of 11 minutes.
REMEMBERED_MAX = 200_000


class Repeats:
    """Runs each key once, as far as it remembers."""

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._finished: OrderedDict[Hashable, None] = OrderedDict()
        #: With what a copy waits for, if there is one.
        self._running: dict[Hashable, asyncio.Future[None] | None] = {}
        self._remembered_max = remembered_max

    def __contains__(self, key: Hashable) -> bool:
        """Whether a copy has finished."""
        return key in self._finished

    def begin_now(self, key: Hashable) -> bool:
        """True: nobody has it, and `end` must follow. False: only `begin` can tell."""
        if key in self._running or key in self._finished:
            return False
        self._running[key] = None
        return True

    async def begin(self, key: Hashable) -> bool:
        """False: a copy of ``key`` has finished. Else `end` must follow. Waits for a copy that is under way."""
        while key in self._running:
            await asyncio.wait([self._end_of(key)])
        return self.begin_now(key)

    def end(self, key: Hashable, *, finished: bool) -> None:
        """Not ``finished``, put off for example: the next copy runs."""
        if finished:
            self._finished[key] = None
            if len(self._finished) > self._remembered_max:
                self._finished.popitem(last=False)
        if waited_for := self._running.pop(key):
            waited_for.set_result(None)

    def _end_of(self, key: Hashable) -> asyncio.Future[None]:
        end = self._running[key]
        if end is None:
            end = self._running[key] = asyncio.get_running_loop().create_future()
        return end
