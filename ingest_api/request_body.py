"""Reads a request's body once, as it is and bounded while it streams."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from ingest_api.problems import Problem

#: A body over the cap is read on for so much and so long before the answer: a client that is cut off
#: in the middle of sending sees a reset connection and not our 413.
_DRAIN_BYTES = 8 * 1024 * 1024
_DRAIN_S = 1.0


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The exact bytes. Problem 413 over ``most_bytes``, whatever Content-Length says; ClientDisconnect when cut."""
    return await read_bytes(request.receive, dict(request.scope["headers"]), most_bytes)


async def read_bytes(receive: Receive, headers: dict[bytes, bytes], most_bytes: int) -> bytes:
    """The same for a handler without a Request."""
    if _declared_bytes(headers) > most_bytes:
        raise await _too_large(receive, headers, most_bytes)
    message = await receive()
    body: bytes = _chunk(message)
    more = message.get("more_body", False)
    if len(body) <= most_bytes and not more:
        return body  # the common case: one piece
    return await _read_on(receive, headers, body, most_bytes, more=more)


def refuse_coding(headers: dict[bytes, bytes]) -> None:
    """Problem 415 for a compressed body: nothing here unpacks one, and receivers are not told of a Content-Encoding."""
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.strip().lower() not in (b"", b"identity"):
        raise Problem(415, "encoding_refused", "Compressed bodies are not taken; send the body as it is.")


def bounded(receive: Receive, most_bytes: int) -> Receive:
    """The same stream for a handler that reads it itself; over ``most_bytes`` it raises Problem 413."""
    size_bytes = 0

    async def receive_bounded() -> Message:
        nonlocal size_bytes
        message = await receive()
        size_bytes += len(message.get("body", b""))
        if size_bytes > most_bytes:
            if message.get("more_body", False):
                await _drain(receive)
            raise _problem(f"{most_bytes} bytes")
        return message

    return receive_bounded


async def _read_on(
    receive: Receive, headers: dict[bytes, bytes], first: bytes, most_bytes: int, *, more: bool
) -> bytes:
    pieces, size_bytes = [first], len(first)
    while more and size_bytes <= most_bytes:
        message = await receive()
        pieces.append(_chunk(message))
        size_bytes += len(pieces[-1])
        more = message.get("more_body", False)
    if size_bytes > most_bytes:
        raise await _too_large(receive, headers, most_bytes, more=more)
    return b"".join(pieces)


def _declared_bytes(headers: dict[bytes, bytes]) -> int:
    """Content-Length; 0 when there is none to go by. The server has checked that it is a number."""
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < 20 else 0


async def _too_large(receive: Receive, headers: dict[bytes, bytes], most_bytes: int, *, more: bool = True) -> Problem:
    if more and b"expect" not in headers:
        await _drain(receive)
    return _problem(f"{most_bytes} bytes (MAX_PAYLOAD_BYTES)")


def _problem(limit: str) -> Problem:
    return Problem(413, "body_too_large", f"The body is larger than {limit}.", {"Connection": "close"})


async def _drain(receive: Receive) -> None:
    left_bytes, more = _DRAIN_BYTES, True
    try:
        async with asyncio.timeout(_DRAIN_S):
            while more and left_bytes > 0:
                message = await receive()
                left_bytes -= len(_chunk(message))
                more = message.get("more_body", False)
    except TimeoutError:
        return


def _chunk(message: object) -> bytes:
    assert isinstance(message, dict)
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    chunk: bytes = message.get("body", b"")
    return chunk
