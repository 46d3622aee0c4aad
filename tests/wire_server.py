"""A server that speaks raw bytes: for answers no HTTP library would give."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireRequest:
    """As it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)


class Wire:
    """One accepted connection. ``number`` counts them from 1."""

    def __init__(self, server: WireServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = server.accepted
        self._server, self._reader, self._writer = server, reader, writer

    async def request(self) -> WireRequest:
        """The next whole request. Raises IncompleteReadError when the client hangs up."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.rstrip("\r\n").split("\r\n")
        headers = [(name, value) for name, _, value in (text.partition(": ") for text in rest)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        request = WireRequest(line, headers, await self._reader.readexactly(length))
        self._server._note(request)
        return request

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def hang_up(self) -> None:
        """In order: what was sent arrives, then the end."""
        self._writer.close()
        await self._writer.wait_closed()

    def end(self) -> None:
        """TCP's end alone: over TLS no farewell before it."""
        with socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno())) as same:
            same.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._writer.transport.abort()

    async def until_gone(self) -> None:
        """Returns when the client has closed the connection."""
        while await self._reader.read(65536):
            pass


Behaviour = Callable[[Wire], Awaitable[None]]


class WireServer:
    """``async with WireServer(behave) as server``: what ``behave`` leaves stays open; the client ends it."""

    def __init__(self, behave: Behaviour, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.accepted = 0
        self.requests: list[WireRequest] = []
        self._arrived = asyncio.Event()
        self._behave, self._tls, self._host = behave, tls, host
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> WireServer:
        self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._tls, backlog=1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def wait_for_request(self, timeout_s: float = 2.0) -> WireRequest:
        """The first one. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._arrived.wait()
        return self.requests[0]

    async def all_gone(self, timeout_s: float = 2.0) -> None:
        """Returns once every connection has been closed by the client. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while self._serving:
                await asyncio.wait(self._serving)

    def _note(self, request: WireRequest) -> None:
        self.requests.append(request)
        self._arrived.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        wire = Wire(self, reader, writer)
        try:
            await self._behave(wire)
            await wire.until_gone()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, which is what the tests look at; or we are, which asyncio would log as an error
        finally:
            self._serving.discard(task)
            writer.transport.abort()


# Well-behaved ones

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


def answering(*answers: bytes) -> Callable[[Wire], Awaitable[None]]:
    """Every connection gets these, one per request, and stays open."""

    async def behave(wire: Wire) -> None:
        for answer in answers:
            await wire.request()
            await wire.send(answer)

    return behave


async def one_each(wire: Wire) -> None:
    """200 to every request."""
    while True:
        await wire.request()
        await wire.send(OK)


async def too_large(wire: Wire) -> None:
    """Says so of the first request, whose body it does not read before."""
    await wire._reader.readuntil(b"\r\n\r\n")
    await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
