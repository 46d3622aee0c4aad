"""The HTTP server around the app: bounds that have to be kept before a request reaches any route.

uvicorn with httptools bounds neither the head of a request nor the time it takes; this protocol does, and answers what
it refuses as a problem too.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest_api.problems import MEDIA_TYPE, Problem, problem_body

MOST_HEADERS = 100
MOST_HEAD_BYTES = 32 * 1024
#: From a request's first byte (a connection's beginning) to its last.
READ_DEADLINE_S = 30.0
MOST_CONNECTIONS = 4_000
#: Files that are not connections: Kafka, Postgres, Redis, logs.
_OTHER_FILES = 200
_KEEP_ALIVE_S = 30
#: Requests under way at a stop; their own bound is ACK_TIMEOUT_SECONDS.
_DRAIN_S = 8


class JoinedWrites(asyncio.Transport):
    """A transport whose writes of one turn of the loop are one: uvicorn writes a head and its body by themselves.

    For a short answer that is half the system calls, and one packet for its reader.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._pieces.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def _flush(self) -> None:
        if self._pieces and not self._transport.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with bounds on head, time and connections."""

    read_deadline_s = READ_DEADLINE_S
    most_connections = MOST_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._refusal: Problem | None = None
        self._message_open = True  # the first one is awaited from the start
        self._in_head = True
        self._waiting_bytes = 0  # of a head that is not complete
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))
        if len(self.connections) > self.most_connections:
            self._refuse(Problem(503, "overloaded", "Too many connections; try again.", {"Retry-After": "1"}))
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing() or not self._message_open:
            return
        self._arm()
        if self._in_head:
            self._waiting_bytes += len(data)
            if self._waiting_bytes > MOST_HEAD_BYTES:
                self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._message_open = self._in_head = True
        self._waiting_bytes = self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._message_open = False
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser cannot read, or one of our callbacks refused."""
        self._refuse(self._refusal or Problem(400, "malformed_request", msg))

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MOST_HEAD_BYTES or len(self.headers) > MOST_HEADERS:
            self._refusal = _head_too_large()
            raise ValueError("head too large")  # the parser stops; send_400_response answers

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.read_deadline_s, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._in_head and self.cycle is not None and not self.cycle.response_complete:
            self._arm()  # the request before this one is still being answered
        else:
            self._refuse(Problem(408, "too_slow", f"The request was not complete after {self.read_deadline_s:.0f} s."))

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        cycle = None if self._in_head else self.cycle
        if cycle is None or not cycle.response_started:
            self.transport.write(_raw(problem))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


class Server(uvicorn.Server):
    """Leaves the signals to the process it lives in."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def new_server(app: ASGIApp, protocol: type[BoundedHttp] = BoundedHttp) -> Server:
    """A server for ``app``; it is given its sockets when it serves."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # our own lines tell of start and stop
    return Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
    )


def raise_file_limit() -> None:
    """As many open files as bounded connections need, as far as we may; fewer connections where we may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        BoundedHttp.most_connections = max(soft - _OTHER_FILES, 50)


def _head_too_large() -> Problem:
    return Problem(431, "head_too_large", f"At most {MOST_HEADERS} headers and {MOST_HEAD_BYTES} bytes of them.")


def _raw(problem: Problem) -> bytes:
    body = problem_body(problem.status_code, problem.code, problem.detail)
    more = "".join(f"{name}: {value}\r\n" for name, value in (problem.headers or {}).items())
    head = (
        f"HTTP/1.1 {problem.status_code} {HTTPStatus(problem.status_code).phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n{more}connection: close\r\n\r\n"
    )
    return head.encode() + body
