"""Idle connections, kept for the next request to the same origin; bounded in number and in age."""

from __future__ import annotations

import asyncio
from time import monotonic

from delivery_stream.connection import Connection

Origin = tuple[str, str, int]

IDLE_MAX = 1024
#: As many as one endpoint usually has in flight: with fewer, a busy endpoint pays a handshake per request.
IDLE_MAX_PER_ORIGIN = 128
#: Receivers commonly hang up after 5 to 75 s; that they did is noticed at once, so a longer wait costs only the socket.
IDLE_S = 30.0
#: However busy: a receiver that moved is found at its new address after this long.
AGE_MAX_S = 300.0
SWEEP_S = 5.0


class ConnectionPool:
    """Knows every open connection and which of them are idle. Newest first, so that the surplus grows old and goes."""

    def __init__(
        self, *, idle_max: int = IDLE_MAX, idle_max_per_origin: int = IDLE_MAX_PER_ORIGIN, idle_s: float = IDLE_S
    ) -> None:
        self._idle_max, self._idle_max_per_origin, self._idle_s = idle_max, idle_max_per_origin, idle_s
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        #: The same, across origins, oldest first, with the time since when.
        self._since: dict[Connection, float] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        return len(self._since)

    def new(self, origin: Origin, address: str) -> Connection:
        """A connection that is not connected yet, and is known here until it is lost."""
        return Connection(origin, address, self._opened, self._lost)

    def take(self, origin: Origin) -> Connection | None:
        """An idle connection to ``origin``, no longer idle; None when there is none."""
        waiting = self._idle.get(origin)
        while waiting:
            connection = waiting.pop()
            del self._since[connection]
            if not waiting:
                del self._idle[origin]
            if connection.reusable:
                return connection
        return None

    def put(self, connection: Connection) -> None:
        """Keeps a connection after an exchange, or closes it."""
        now_s = monotonic()
        if self._closed or not connection.reusable or now_s - connection.opened_s > AGE_MAX_S:
            connection.abort()
            return
        waiting = self._idle.setdefault(connection.origin, [])
        if len(waiting) >= self._idle_max_per_origin:
            connection.abort()
            return
        if len(self._since) >= self._idle_max:
            self._drop(next(iter(self._since)))
            waiting = self._idle.setdefault(connection.origin, [])
        waiting.append(connection)
        self._since[connection] = now_s
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(min(SWEEP_S, self._idle_s), self._sweep)

    async def close(self) -> None:
        """Cuts every connection, in use or not, and each that is still to come."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connection in list(self._open):
            connection.abort()
        for _ in range(10):  # their transports tell us in the next turns of the loop
            if not self._open:
                return
            await asyncio.sleep(0)

    def _opened(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._closed:
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._since:
            self._forget(connection)

    def _drop(self, connection: Connection) -> None:
        self._forget(connection)
        connection.abort()

    def _forget(self, connection: Connection) -> None:
        del self._since[connection]
        waiting = self._idle[connection.origin]
        waiting.remove(connection)
        if not waiting:
            del self._idle[connection.origin]

    def _sweep(self) -> None:
        self._sweeping = None
        oldest_s = monotonic() - self._idle_s
        while self._since:
            connection, since_s = next(iter(self._since.items()))
            if since_s > oldest_s:
                delay_s = min(SWEEP_S, self._idle_s)
                self._sweeping = asyncio.get_running_loop().call_later(delay_s, self._sweep)
                return
            self._drop(connection)
