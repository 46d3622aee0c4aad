"""An endpoint that obeys a script: what end-to-end, fault and sender tests deliver to.

Lean, so that it is not what is measured.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request, whole."""

    method: str
    path: str
    #: Lower-case names; of a name that came twice, the last value.
    headers: Mapping[str, str]
    body: bytes
    #: `time.monotonic()` when its last byte was here.
    at_s: float
    #: Which connection it came on, counted from 1.
    connection: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver does with one request."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay_s: float = 0.0
    #: Closes the connection (after the delay) instead of answering.
    drop: bool = False
    #: Keeps the request unanswered until `release()`.
    hold: bool = False


#: A plain number is an answer with that status.
Step = int | Answer
Script = Callable[[Arrival], Step]


class Receiver:
    """``async with Receiver() as receiver``: listens on loopback, answers 200, remembers every arrival in order.

    ``script(path, 500, 500, 200)`` answers the first three requests so and repeats the last; ``script(path, f)`` asks
    ``f(arrival)`` each time. Paths include the query. ``stop()`` and ``start()`` play an outage on the same port.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, ssl_context: ssl.SSLContext | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self.connections_seen = 0
        #: Requests without an answer yet, now and at most.
        self.in_flight = 0
        self.peak_in_flight = 0
        self._host, self._port, self._ssl = host, port, ssl_context
        self._scripts: dict[str, Script] = {}
        self._default: Script = lambda _arrival: 200
        self._by_path: Counter[str] = Counter()
        self._waiters: list[tuple[int, str | None, asyncio.Future[None]]] = []
        self._held: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self._host, self._port, ssl=self._ssl, backlog=4096
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listens no more and cuts every connection; arrivals and scripts stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.cut()
        self._held.clear()
        await asyncio.sleep(0)  # let the cut connections report that they are gone

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._ssl else 'http'}://{host}:{self._port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def script(self, path: str, *steps: Step | Script) -> None:
        self._scripts[path] = _script_of(steps)

    def script_default(self, *steps: Step | Script) -> None:
        """For every path without a script of its own."""
        self._default = _script_of(steps)

    def release(self, path: str | None = None) -> None:
        """Answers what is held, of one path or of all, and holds nothing new there."""
        for held_path in [path] if path is not None else list(self._held):
            self._scripts[held_path] = lambda _arrival: 200
            for answer in self._held.pop(held_path, []):
                answer()

    def clear(self) -> None:
        """Forgets the arrivals."""
        self.arrivals.clear()
        self._by_path.clear()

    def of(self, path: str) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.path == path]

    async def wait_for(self, n: int, path: str | None = None, timeout_s: float = 10.0) -> list[Arrival]:
        """The arrivals (of one path, or all) once there are ``n`` or more. Raises TimeoutError with how many came."""
        if self._seen(path) < n:
            waiter = (n, path, asyncio.get_running_loop().create_future())
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout(timeout_s):
                    await waiter[2]
            except TimeoutError:
                raise TimeoutError(f"{self._seen(path)} of {n} at {path or 'any path'} in {timeout_s} s") from None
            finally:
                self._waiters.remove(waiter)
        return list(self.arrivals) if path is None else self.of(path)

    def _seen(self, path: str | None) -> int:
        return len(self.arrivals) if path is None else self._by_path[path]

    def _arrived(self, arrival: Arrival) -> Answer:
        self.arrivals.append(arrival)
        self._by_path[arrival.path] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        for n, path, future in self._waiters:
            if not future.done() and self._seen(path) >= n:
                future.set_result(None)
        step = self._scripts.get(arrival.path, self._default)(arrival)
        return Answer(step) if isinstance(step, int) else step


class _Connection(asyncio.Protocol):
    """One connection; its requests come one after the other, as our clients never pipeline."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._unanswered = 0
        self._number = 0
        self._target, self._headers, self._body = "", dict[str, str](), list[bytes]()

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self._receiver._connections.add(self)
        self._receiver.connections_seen += 1
        self._number = self._receiver.connections_seen

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._receiver._connections.discard(self)
        self._receiver.in_flight -= self._unanswered
        self._unanswered = 0

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.cut()

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = "", {}, []

    def on_url(self, url: bytes) -> None:
        self._target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("latin-1")
        arrival = Arrival(method, self._target, self._headers, b"".join(self._body), time.monotonic(), self._number)
        keep_alive = self._parser.should_keep_alive()
        self._unanswered += 1
        answer = self._receiver._arrived(arrival)
        if answer.hold:
            self._receiver._held[arrival.path].append(lambda: self._answer(answer, keep_alive))
        elif answer.delay_s > 0:
            asyncio.get_running_loop().call_later(answer.delay_s, self._answer, answer, keep_alive)
        else:
            self._answer(answer, keep_alive)

    def _answer(self, answer: Answer, keep_alive: bool) -> None:
        if self._transport is None:
            return
        self._unanswered -= 1
        self._receiver.in_flight -= 1
        if answer.drop:
            self.cut()
            return
        self._transport.write(_encode(answer))
        if not keep_alive or ("connection", "close") in answer.headers:
            self._transport.close()


def _script_of(steps: tuple[Step | Script, ...]) -> Script:
    """The steps in turn, the last one for ever."""
    remaining = list(steps)

    def next_step(arrival: Arrival) -> Step:
        step = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return step(arrival) if callable(step) else step

    return next_step


def _encode(answer: Answer) -> bytes:
    if answer == _OK:
        return _OK_BYTES
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in answer.headers)]
    if answer.status not in (204, 304):
        lines.append(f"content-length: {len(answer.body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


_OK = Answer()
_OK_BYTES = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
