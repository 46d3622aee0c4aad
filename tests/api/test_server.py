"""What the server itself refuses: heads without end, slow senders, too many connections, nonsense."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from ingest_api.server import MOST_HEADERS, BoundedHttp
from shared.settings import Settings
from tests.api.conftest import Api, close, running_api


class Impatient(BoundedHttp):
    read_deadline_s = 0.4


class Small(BoundedHttp):
    most_connections = 3


@pytest.fixture(scope="module")
async def impatient(api_settings: Settings) -> AsyncIterator[Api]:
    async with running_api(api_settings, Impatient) as running:
        yield running


def parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    return int(head.split()[1]), orjson.loads(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /inge",
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        b"POST /ingest/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /subscriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 9\r\n\r\n",
        b"POST /point1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
async def test_a_request_that_does_not_end_is_cut(impatient: Api, sent: bytes) -> None:
    """408, or (an answer was already given) just the end of the connection."""
    started_s = time.monotonic()
    answer = await impatient.raw(sent)
    assert time.monotonic() - started_s < 2
    if not answer.startswith(b"HTTP/1.1 404"):
        status, body = parsed(answer)
        assert (status, body["code"]) == (408, "too_slow")


async def test_a_body_that_does_not_end_is_408(impatient: Api) -> None:
    created = await impatient.subscribe()
    request = f"POST /ingest/{created['id']} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf"
    status, body = parsed(await impatient.raw(request.encode()))
    assert (status, body["code"]) == (408, "too_slow")


async def test_bytes_that_trickle_in_do_not_move_the_deadline(impatient: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(b"GET /live HTTP/1.1\r\nX-A: ")
    started_s = time.monotonic()
    answer = asyncio.create_task(reader.read())
    while not answer.done() and time.monotonic() - started_s < 5:
        writer.write(b"x")
        await asyncio.wait([answer], timeout=0.05)
    assert time.monotonic() - started_s < 2
    assert parsed(await answer)[0] == 408
    await close(writer)


async def test_a_connection_is_kept_between_requests(impatient: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    for _ in range(2):
        writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(15) == b'{"status":"ok"}'
        with pytest.raises(TimeoutError):  # longer than the deadline of one request
            async with asyncio.timeout(0.6):
                await reader.read(1)
    await close(writer)


@pytest.mark.parametrize(
    "head",
    [
        b"X-A: " + b"x" * 40_000 + b"\r\n",
        b"".join(b"X-%d: y\r\n" % number for number in range(MOST_HEADERS + 1)),
        b"X-A: " + b"x" * 60_000,
    ],
)
async def test_a_large_head_is_431(api: Api, head: bytes) -> None:
    status, body = parsed(await api.raw(b"GET /live HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n"))
    assert (status, body["code"]) == (431, "head_too_large")


async def test_a_long_path_is_431(api: Api) -> None:
    status, body = parsed(await api.raw(b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    assert (status, body["code"]) == (431, "head_too_large")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nX A: 1\r\n\r\n",
        b"POST /point1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /point1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /point1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /point1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_400(api: Api, request_bytes: bytes) -> None:
    status, body = parsed(await api.raw(request_bytes))
    assert (status, body["code"]) == (400, "malformed_request")


async def test_connections_over_the_bound_are_503(api_settings: Settings) -> None:
    async with running_api(api_settings, Small) as running:
        held = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(3)]
        status, body = parsed(await running.raw(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert (status, body["code"]) == (503, "overloaded")
        for _, writer in held:
            await close(writer)


async def test_a_websocket_is_not_offered(api: Api) -> None:
    request = (
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await api.raw(request)).startswith(b"HTTP/1.1 200")
