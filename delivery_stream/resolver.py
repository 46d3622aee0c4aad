"""Host names to addresses: once per host at a time, remembered for as long as the answer says, all of it bounded.

An answer is only where to look: whoever calls an address vets it first, each time, remembered or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from shared.address import Address

#: An answer is remembered for its TTL, but no shorter (a TTL of 0 would be a lookup for each connection) …
TTL_MIN_S = 5.0
#: … and no longer: as long as a connection may live, so that a receiver that moved is found within a known time.
TTL_MAX_S = 300.0
#: That there was no address. Short: names are created after subscriptions, and name servers come back.
FAILURE_TTL_S = 5.0
#: Hosts remembered, with and without an address.
REMEMBERED_MAX = 4096
#: More than MAX_IN_FLIGHT asks for: a slow name server costs the hosts it serves, and neither others nor memory.
UNDER_WAY_MAX = 1024
#: One lookup, whatever the name servers do. Who waits may have less time than this.
LOOKUP_MAX_S = 10.0


class Resolved(NamedTuple):
    """The addresses of a host, best first, at least one; ``ttl_s`` as the name servers said it."""

    addresses: tuple[Address, ...]
    ttl_s: float = 0.0


class Unresolved(NamedTuple):
    """No address, and why, for people."""

    details: str
    ttl_s: float = FAILURE_TTL_S


class Lookup(Protocol):
    """Asks once. What it raises is a fault of ours; a host without an address is an answer."""

    async def __call__(self, host: str) -> Resolved | Unresolved: ...

    async def close(self) -> None: ...


class Resolver:
    """``resolve(host)`` for many at once. Who waits may be cancelled; the lookup goes on and is remembered."""

    def __init__(
        self, lookup: Lookup, *, ttl_min_s: float = TTL_MIN_S, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._ttl_min_s = ttl_min_s
        self._now_s = now_s
        #: Oldest first, with the time until when.
        self._remembered: dict[str, tuple[float, Resolved | Unresolved]] = {}
        self._under_way: dict[str, asyncio.Task[Resolved | Unresolved]] = {}
        self._closed = False

    async def resolve(self, host: str) -> Resolved | Unresolved:
        """Where ``host`` is."""
        known = self._remembered.get(host)
        if known is not None and known[0] > self._now_s():
            return known[1]
        lookup = self._under_way.get(host)
        if lookup is None:
            if self._closed:
                return Unresolved("closed")
            if len(self._under_way) >= UNDER_WAY_MAX:
                return Unresolved("too many lookups under way")
            lookup = self._under_way[host] = asyncio.create_task(self._look_up(host))
            lookup.add_done_callback(lambda _: self._under_way.pop(host))
        try:
            # shield: the one who gives up must not take the answer from the others
            return await asyncio.shield(lookup)
        except asyncio.CancelledError:
            if lookup.cancelled():  # by close()
                return Unresolved("closed")
            raise

    async def close(self) -> None:
        """Ends what is under way and starts nothing more."""
        self._closed = True
        ended = list(self._under_way.values())
        for lookup in ended:
            lookup.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        await self._lookup.close()

    async def _look_up(self, host: str) -> Resolved | Unresolved:
        answer: Resolved | Unresolved
        try:
            async with asyncio.timeout(LOOKUP_MAX_S):
                answer = await self._lookup(host)
        except TimeoutError:
            answer = Unresolved("no answer in time")
        self._remembered.pop(host, None)
        ttl_s = min(max(answer.ttl_s, self._ttl_min_s), TTL_MAX_S)
        self._remembered[host] = (self._now_s() + ttl_s, answer)
        if len(self._remembered) > REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]  # the oldest
        return answer
