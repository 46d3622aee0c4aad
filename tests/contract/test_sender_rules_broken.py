"""Our sender and aiohttp, against a server that speaks raw bytes: HTTP as it should not be."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from delivery_stream.decision import Answered
from delivery_stream.sender import Sender
from tests.conformance import DEADLINE_S, Posts, answered, awaited_conforms, conforms, failed, ours_conforms, post
from tests.wire_server import CLOSING, OK, Wire, WireServer, answering


@pytest.mark.parametrize(
    "rubbish",
    [b"rubbish", b"\x00", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
)
@ours_conforms
async def test_what_follows_an_answer_is_not_the_next_answer(sender: Posts, rubbish: bytes) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK + rubbish if wire.number == 1 else CLOSING)

    async with WireServer(behave) as server:
        assert (await answered(sender, server)).body == b"ok"
        assert (await answered(sender, server)).body == b"ok"
        assert server.accepted == 2
        await server.all_gone()


@ours_conforms
async def test_bytes_nobody_asked_for_end_the_connection(sender: Posts) -> None:
    unasked = asyncio.Event()

    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        if wire.number == 1:
            await unasked.wait()
            await wire.send(b"HTTP/1.1 500 Poison\r\nContent-Length: 0\r\n\r\n")

    async with WireServer(behave) as server:
        await answered(sender, server)
        unasked.set()
        await server.all_gone()
        await answered(sender, server)
        assert server.accepted == 2


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        (b"", "timeout"),
        (b"HTTP/1.1 200 OK\r\n", "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "timeout"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "timeout"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "timeout"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 50, "bad_response"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "bad_response"),
        (b"rubbish\r\n\r\n", "bad_response"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "bad_response"),
        (b"\x15\x03\x01\x00\x02\x02F", "bad_response"),
        (b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", "bad_response"),
        (b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nBad Header: x\r\nContent-Length: 0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nA: b\x00c\r\nContent-Length: 0\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", "bad_response"),
        (b"HTTP/1.1 200 " + b"x" * 400_000, "bad_response"),
    ],
)
@conforms
async def test_what_is_no_answer_ends_in_time_and_ends_the_connection(
    sender: Posts, answer: bytes, error_class: str
) -> None:
    async with WireServer(answering(answer)) as server:
        if isinstance(sender, Sender):
            await failed(sender, server.url, error_class)
            assert sender.open_connections <= 1  # what is left is being closed
            await server.all_gone()
        else:  # a lenient library may make something of it; it must not take longer
            await post(sender, server.url, timeout_s=DEADLINE_S)
        assert len(server.requests) == 1


@pytest.mark.parametrize("piece", [b"x", b"A: b\r\n"], ids=["status line", "headers"])
@conforms
async def test_a_drip_is_cut_at_the_deadline(sender: Posts, piece: bytes) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 ")
        if piece == b"A: b\r\n":
            await wire.send(b"OK\r\n")
        while True:
            await wire.send(piece)
            await asyncio.sleep(0.02)

    async with WireServer(behave) as server:
        await failed(sender, server.url, "timeout")
        await server.all_gone()


@conforms
async def test_endless_headers_are_cut(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await wire.send(b"A: " + b"b" * 1000 + b"\r\n")

    async with WireServer(behave) as server:
        await failed(sender, server.url, "bad_response", timeout_s=5.0)
        await server.all_gone()


@pytest.mark.parametrize("coding", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked", b"X: y"])
@conforms
async def test_of_an_endless_body_the_status_is_used_and_the_rest_not_read(sender: Posts, coding: bytes) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 503 Busy\r\n" + coding + b"\r\n\r\n")
        while True:
            await wire.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n" if b"chunked" in coding else b"x" * 8192)

    async with WireServer(behave) as server:
        assert len((await answered(sender, server, 503)).body) == 8192
        await server.all_gone()


@ours_conforms
async def test_a_chunk_that_never_begins_is_bounded_too(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        while True:
            await wire.send(b"extension" * 1000)

    async with WireServer(behave) as server:
        assert isinstance(await post(sender, server.url, timeout_s=5.0), Answered)
        await server.all_gone()


@ours_conforms
async def test_a_body_is_read_to_its_end_only_when_that_is_cheaper_than_a_new_connection(sender: Posts) -> None:
    def sized(body_bytes: int) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Length: {body_bytes}\r\n\r\n".encode() + b"x" * body_bytes

    async with WireServer(answering(sized(60_000), sized(200_000))) as server:
        for connections in (1, 1, 2):
            assert len((await answered(sender, server)).body) == 8192
            assert server.accepted == connections


@conforms
async def test_nothing_is_decompressed(sender: Posts) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000, 9)[:60_000]
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with WireServer(answering(head + bomb)) as server:
        assert (await answered(sender, server)).body == bomb[:8192]


@pytest.mark.parametrize("cut", [Wire.reset, Wire.hang_up], ids=["reset", "end"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
    ids=["length", "chunked", "head"],
)
@conforms
async def test_an_answer_that_is_cut_short_is_none(
    sender: Posts, head: bytes, cut: Callable[[Wire], Awaitable[None] | None]
) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(head)
        ending = cut(wire)
        if ending is not None:
            await ending

    async with WireServer(behave) as server:
        await failed(sender, server.url, "connection_reset")
        assert server.accepted == 1


@conforms
async def test_a_receiver_that_never_reads_is_cut_at_the_deadline(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await asyncio.sleep(DEADLINE_S * 2)  # then reads on, and sees the end

    async with WireServer(behave) as server:
        await failed(sender, server.url, "timeout", body=b"x" * 32_000_000)
        await server.all_gone(5.0)


@conforms
async def test_a_port_where_nobody_listens(sender: Posts) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        await failed(sender, f"http://127.0.0.1:{held.getsockname()[1]}", "connect_failed")


@conforms
async def test_a_host_that_does_not_take_the_connection(sender: Posts) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # beyond the backlog Linux drops the SYN, as a firewall does
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        await failed(sender, f"http://127.0.0.1:{full.getsockname()[1]}", "connect_timeout")
        for filler in fillers:
            filler.close()


@awaited_conforms
async def test_a_cancelled_post_closes_its_connection(sender: Posts) -> None:
    async with WireServer(answering(b"HTTP/1.1 200 OK\r\n")) as server:
        posting = asyncio.create_task(post(sender, server.url))
        await server.wait_for_request()
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await server.all_gone()


@ours_conforms
async def test_no_file_descriptor_is_left_behind_by_failures(sender: Posts) -> None:
    """Refused, timed out, cut, cancelled while connecting: the process would run out of them within a day."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        port = silent.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(post(sender, f"http://127.0.0.1:{port}", timeout_s=0.1) for _ in range(20)))
        await asyncio.gather(*(post(sender, f"https://127.0.0.1:{port}", timeout_s=0.1) for _ in range(20)))
        cancelled = [asyncio.create_task(post(sender, f"https://127.0.0.1:{port}", timeout_s=9.0)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
    await asyncio.gather(*(post(sender, f"http://127.0.0.1:{port}", timeout_s=0.1) for _ in range(20)))
    async with asyncio.timeout(5):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 - nobody tells when the kernel is done
            await asyncio.sleep(0.01)
