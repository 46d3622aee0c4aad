"""What the machine's name servers say of a host: c-ares, in a thread of its own.

In a thread because an answer is a stranger's as much as the host: one of 64 KiB takes 50 ms to read, which is then
not taken from the deliveries.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from ipaddress import IPv6Address
from socket import SOCK_STREAM

import aiodns
import pycares

from delivery_stream.resolver import TTL_MAX_S, Resolved, Unresolved
from shared.address import Address, read_address

#: The first try at each server; the second waits twice as long.
TRY_S = 1.5
TRIES = 2
#: A name with more addresses is nobody's receiver. Each of them would be vetted, at each connection.
ADDRESSES_MAX = 64

_STOP_S = 2.0
#: ares.h's ARES_AI_NOSORT. Sorting asks the kernel for a route to every address, while other lookups wait.
_NO_SORT = 1 << 7


class NameServers:
    """``await name_servers(host)``: by /etc/hosts, then by DNS, as /etc/resolv.conf and /etc/nsswitch.conf say.

    ``servers`` (``address`` or ``address:port``) are asked instead of those of /etc/resolv.conf. Other sources of
    names (mDNS, NIS, LDAP) are not asked. `localhost` is loopback (RFC 6761).
    """

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = servers
        self._thread: _Thread | None = None

    async def __call__(self, host: str) -> Resolved | Unresolved:
        if self._thread is None or self._thread.failed:
            self._thread = _Thread(self._servers)
        loop = await self._thread.started()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._thread.look_up(host), loop))

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and not thread.failed:
            await thread.stop()


class _Thread:
    """c-ares on an event loop of its own. Its end is not waited for when the process ends."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = servers
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="name servers", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """It did not start: no file descriptors, no memory."""
        return self._started.done() and self._started.exception() is not None

    async def started(self) -> asyncio.AbstractEventLoop:
        return await asyncio.shield(asyncio.wrap_future(self._started))

    async def stop(self) -> None:
        (await self.started()).call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, _STOP_S)

    async def look_up(self, host: str) -> Resolved | Unresolved:
        """Called on the thread's loop."""
        try:
            answer = await self._cares.getaddrinfo(host, type=SOCK_STREAM, flags=_NO_SORT)
        except aiodns.error.DNSError as error:
            return Unresolved(str(error.args[1]))
        finally:
            # c-ares has a memory that nobody can turn off from here: without a bound, and it keeps an empty answer
            # for an hour (c-ares issue 1293). This empties it. The memory of ours is the resolver's.
            if not self._stop.is_set():
                self._cares._channel.reinit()
        return resolved(answer)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        try:
            self._cares = aiodns.DNSResolver(self._servers or None, timeout=TRY_S, tries=TRIES)
        except (OSError, RuntimeError, pycares.AresError) as error:
            self._started.set_exception(error)
            return
        self._started.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._cares.close()


def resolved(answer: pycares.AddrInfoResult) -> Resolved | Unresolved:
    """The addresses and their time to live: the shortest on the way, aliases included.

    IPv6 before IPv4: without a route to the one, connecting fails at once and the other is next (RFC 8305).
    """
    if len(answer.nodes) > ADDRESSES_MAX:
        return Unresolved(f"more than {ADDRESSES_MAX} addresses", ttl_s=TTL_MAX_S)
    addresses: list[Address] = [read_address(node.addr[0].decode()) for node in answer.nodes]
    if not addresses:
        return Unresolved("no address")
    ttls = [*(node.ttl for node in answer.nodes), *(alias.ttl for alias in answer.cnames)]
    addresses.sort(key=lambda address: not isinstance(address, IPv6Address))
    return Resolved(tuple(dict.fromkeys(addresses)), min(ttls))
