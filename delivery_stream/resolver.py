"""Host names to addresses: off the event loop, once per host at a time, remembered for a moment, all of it bounded."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Blocking; the addresses of a host as text, best first. Raises OSError.
Lookup = Callable[[str], list[str]]

#: As short as DNS answers that are meant to move: a receiver's new address is seen within this time.
REMEMBERED_S = 30.0
REMEMBERED_MAX = 4096
#: Lookups running or waiting for a thread. A slow DNS server costs the hosts it serves, and not memory.
UNDER_WAY_MAX = 256
#: One blocking getaddrinfo each: so many slow hosts can hang before others wait.
THREADS = 16


def system_lookup(host: str) -> list[str]:
    """What the machine's resolver says."""
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for _family, _type, _proto, _name, sockaddr in found))


class Resolver:
    """``resolve(host)`` for many at once. Who waits may be cancelled; the lookup goes on and is remembered."""

    def __init__(self, lookup: Lookup = system_lookup, *, remembered_s: float = REMEMBERED_S) -> None:
        self._lookup = lookup
        self._remembered_s = remembered_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
        self._remembered: dict[str, tuple[float, list[str]]] = {}
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}
        self._closed = False

    async def resolve(self, host: str) -> list[str]:
        """The addresses of ``host``, best first. Raises OSError."""
        known = self._remembered.get(host)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        lookup = self._under_way.get(host) or self._start(host)
        try:
            # shield: the one who gives up must not take the answer from the others
            return await asyncio.shield(lookup)
        except asyncio.CancelledError:
            if lookup.cancelled():  # by close(), before a thread had taken it
                raise OSError("closed") from None
            raise

    def close(self) -> None:
        """Starts nothing more; a lookup that hangs in the system's resolver is left to end by itself."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, host: str) -> asyncio.Future[list[str]]:
        if self._closed:
            raise OSError("closed")
        if len(self._under_way) >= UNDER_WAY_MAX:
            raise OSError("too many lookups under way")
        lookup = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
        self._under_way[host] = lookup
        lookup.add_done_callback(lambda done: self._finished(host, done))
        return lookup

    def _finished(self, host: str, lookup: asyncio.Future[list[str]]) -> None:
        del self._under_way[host]
        if lookup.cancelled() or lookup.exception() is not None:
            return
        self._remembered.pop(host, None)
        self._remembered[host] = (time.monotonic() + self._remembered_s, lookup.result())
        if len(self._remembered) > REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]  # the oldest
