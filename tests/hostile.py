"""Receivers that mean us no good, as behaviours of a `WireServer`, and what the attempt log calls each of them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.wire_server import Wire

#: For ever, as far as any deadline goes.
_LONG_S = 3600
#: 50 MB in 218 kB: more than is read of any answer.
_BOMB = gzip.compress(bytes(50_000_000), 1)


@dataclass(frozen=True, slots=True)
class Hostile:
    """What it does with a request, and the class of the error that this is."""

    behave: Callable[[Wire], Awaitable[None]]
    error_class: str
    #: A refusal whose status counts.
    status: int | None = None


async def _never_answers(wire: Wire) -> None:
    await wire.request()
    await asyncio.sleep(_LONG_S)


async def _never_reads(_wire: Wire) -> None:
    await asyncio.sleep(_LONG_S)


async def _one_byte_per_10_s(wire: Wire) -> None:
    await wire.request()
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
        await wire.send(bytes([byte]))
        await asyncio.sleep(10)


def _for_ever(head: bytes, piece: bytes) -> Callable[[Wire], Awaitable[None]]:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(head)
        while True:
            await wire.send(piece)
            await asyncio.sleep(0)  # it shares our loop

    return behave


def _once(answer: bytes, *, reset: bool = False) -> Callable[[Wire], Awaitable[None]]:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(answer)
        if reset:
            wire.reset()

    return behave


_BOTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
_PACKED = f"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: {len(_BOMB)}\r\n\r\n".encode() + _BOMB
_CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
_CHUNK = b"2000\r\n" + bytes(0x2000) + b"\r\n"

HOSTILE = {
    "accepts and never answers": Hostile(_never_answers, "timeout"),
    "never reads": Hostile(_never_reads, "timeout"),
    "one byte per 10 s": Hostile(_one_byte_per_10_s, "timeout"),
    "endless headers": Hostile(_for_ever(b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 995 + b"\r\n"), "bad_response"),
    "one endless header": Hostile(_for_ever(b"HTTP/1.1 200 OK\r\nA: ", b"b" * 1000), "bad_response"),
    "endless interim answers": Hostile(_for_ever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40), "bad_response"),
    "endless body": Hostile(_for_ever(b"HTTP/1.1 500 No\r\n\r\n", bytes(8192)), "http_status", 500),
    "endless chunks": Hostile(
        _for_ever(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", _CHUNK), "http_status", 500
    ),
    "gzip bomb": Hostile(_once(_PACKED), "http_status", 500),
    "both length and chunked": Hostile(_once(_BOTH), "bad_response"),
    "malformed status line": Hostile(_once(b"HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n"), "bad_response"),
    "reset mid-body": Hostile(_once(_CUT, reset=True), "connection_reset"),
}
