"""Our sender and aiohttp, against a server that speaks raw bytes: HTTP as it is and as it should not be."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from delivery_stream.decision import Answered, NoAnswer
from delivery_stream.sender import Sender
from tests.conformance import DEADLINE_S, Posts, answered, awaited_conforms, conforms, failed, ours_conforms, post
from tests.wire_server import Wire, WireServer

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


# As it is


@conforms
async def test_the_request_stands_on_the_wire_as_given(sender: Posts) -> None:
    async with WireServer(one_each) as server:
        await answered(sender, server)
        (request,) = server.requests
    assert request.line == "POST /hook?a=b HTTP/1.1"
    assert request.body == b"hello"
    assert dict(request.headers) in (
        {"Host": f"127.0.0.1:{server.port}", "Content-Length": "5", "webhook-id": "msg_1", "X-Own": "ü"},
        {
            "Host": f"127.0.0.1:{server.port}",
            "Content-Length": "5",
            "webhook-id": "msg_1",
            "X-Own": "Ã¼",
        },  # aiohttp: UTF-8
    )


@conforms
async def test_one_connection_serves_many_requests(sender: Posts) -> None:
    async with WireServer(one_each) as server:
        for _ in range(5):
            assert (await answered(sender, server)).body == b"ok"
        assert (server.accepted, len(server.requests)) == (1, 5)


@conforms
async def test_an_empty_body_is_sent_with_its_length(sender: Posts) -> None:
    async with WireServer(one_each) as server:
        assert isinstance(await post(sender, server.url, b""), Answered)
        assert server.requests[0].header("content-length") == "0"


@conforms
async def test_a_large_body_arrives_whole(sender: Posts) -> None:
    body = bytes(range(256)) * 8192
    async with WireServer(one_each) as server:
        assert isinstance(await post(sender, server.url, body), Answered)
        assert server.requests[0].body == body


@conforms
async def test_connection_close_is_respected(sender: Posts) -> None:
    async with WireServer(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")) as server:
        await answered(sender, server)
        await answered(sender, server)
        assert server.accepted == 2
        await server.all_gone()


@conforms
async def test_chunks_are_put_together_and_the_connection_is_kept(sender: Posts) -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n"
    )
    async with WireServer(answering(chunked, chunked)) as server:
        assert (await answered(sender, server)).body == b"abcdefg"
        assert (await answered(sender, server)).body == b"abcdefg"
        assert server.accepted == 1


@conforms
async def test_an_answer_may_come_a_byte_at_a_time(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        for byte in OK:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)

    async with WireServer(behave) as server:
        assert (await answered(sender, server)).body == b"ok"


@pytest.mark.parametrize("informational", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
@conforms
async def test_informational_answers_are_not_the_answer(sender: Posts, informational: bytes) -> None:
    early = b"HTTP/1.1 " + informational + b"\r\nLink: x\r\nRetry-After: 9\r\n\r\n"
    async with WireServer(answering(early + OK, early + early + OK)) as server:
        assert (await answered(sender, server)).retry_after_s == 0
        await answered(sender, server)
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 200),
    ],
    ids=["204", "304", "no reason", "1.0 kept"],
)
@conforms
async def test_what_has_no_body_leaves_the_connection_usable(sender: Posts, answer: bytes, status: int) -> None:
    async with WireServer(answering(answer, answer)) as server:
        assert (await answered(sender, server, status)).body == b""
        await answered(sender, server, status)
        assert server.accepted == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@conforms
async def test_a_body_without_length_ends_with_the_connection(sender: Posts, version: bytes) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/" + version + b" 200 OK\r\n\r\nuntil the end")
        await wire.hang_up()

    async with WireServer(behave) as server:
        assert (await answered(sender, server)).body == b"until the end"
        await answered(sender, server)
        assert server.accepted == 2


@conforms
async def test_http_1_0_is_not_kept_unless_it_says_so(sender: Posts) -> None:
    async with WireServer(answering(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        await answered(sender, server)
        await answered(sender, server)
        assert server.accepted == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@conforms
async def test_a_redirect_is_an_answer_and_not_followed(sender: Posts, status: int) -> None:
    async with WireServer(one_each) as elsewhere:
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with WireServer(answering(answer)) as server:
            await answered(sender, server, status)
        assert elsewhere.accepted == 0


@conforms
async def test_cookies_are_not_given_back(sender: Posts) -> None:
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with WireServer(answering(cookie, cookie)) as server:
        await answered(sender, server)
        await answered(sender, server)
        assert [request.header("cookie") for request in server.requests] == [None, None]


@conforms
async def test_retry_after_is_read(sender: Posts) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    answers = [f"HTTP/1.1 503 Busy\r\nRETRY-AFTER: {text}\r\nContent-Length: 0\r\n\r\n".encode() for text in ("17", at)]
    async with WireServer(answering(*answers)) as server:
        assert (await answered(sender, server, 503)).retry_after_s == 17
        assert 80 < (await answered(sender, server, 503)).retry_after_s <= 90


@ours_conforms
async def test_an_early_answer_counts_and_ends_the_connection(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire._reader.readuntil(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    async with WireServer(behave) as server:
        outcome = await post(sender, server.url, b"x" * 32_000_000)
        assert isinstance(outcome, Answered)
        assert outcome.status == 413
        await server.all_gone()
        assert server.accepted == 1


@conforms
async def test_ipv6_is_spoken(sender: Posts) -> None:
    async with WireServer(one_each, host="::1") as server:
        await answered(sender, server)
        assert server.requests[0].header("host") == f"[::1]:{server.port}"


# Connections that were kept too long


@conforms
async def test_a_kept_connection_that_dies_unanswered_costs_one_resend(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        if wire.number == 1:
            await wire.hang_up()
        else:
            await wire.send(OK)

    async with WireServer(behave) as server:
        await answered(sender, server)
        await answered(sender, server)
        assert (server.accepted, len(server.requests)) == (2, 3)


@conforms
async def test_there_is_no_second_resend(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        if wire.number == 1:
            await wire.send(OK)
            await wire.request()
        await wire.hang_up()

    async with WireServer(behave) as server:
        await answered(sender, server)
        await failed(sender, server.url, "connection_reset")
        assert (server.accepted, len(server.requests)) == (2, 3)


@conforms
async def test_a_resend_has_what_is_left_of_the_time(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        if wire.number == 1:
            await wire.send(OK)
            await wire.request()
            await asyncio.sleep(0.6)
            await wire.hang_up()
        await wire.until_gone()

    async with WireServer(behave) as server:
        await answered(sender, server)
        async with asyncio.timeout(1.4):  # 0.6 s were over when it was sent again
            await failed(sender, server.url, "timeout", 1.0)
        assert (server.accepted, len(server.requests)) == (2, 3)


@awaited_conforms
async def test_a_new_connection_that_dies_is_not_tried_again(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.hang_up()

    async with WireServer(behave) as server:
        await failed(sender, server.url, "connection_reset")
        assert (server.accepted, len(server.requests)) == (1, 1)


@ours_conforms
async def test_nothing_is_resent_once_a_byte_of_an_answer_came(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        await wire.send(b"HTTP/1.1 2")
        await wire.hang_up()

    async with WireServer(behave) as server:
        await answered(sender, server)
        outcome = await post(sender, server.url)
        assert isinstance(outcome, NoAnswer)
        assert outcome.error_class == "connection_reset"
        assert (server.accepted, len(server.requests)) == (1, 2)


@conforms
async def test_a_deadline_is_not_a_reason_to_resend(sender: Posts) -> None:
    async with WireServer(answering(OK, b"")) as server:
        await answered(sender, server)
        await failed(sender, server.url, "timeout")
        assert (server.accepted, len(server.requests)) == (1, 2)
        await server.all_gone()


@conforms
async def test_a_connection_closed_while_idle_is_not_used(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.hang_up()

    async with WireServer(behave) as server:
        await answered(sender, server)
        await server.all_gone()
        await answered(sender, server)
        assert (server.accepted, len(server.requests)) == (2, 2)


# As it should not be


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


# TLS


def server_tls(authority: trustme.CA, *names: str, not_after: datetime | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, not_after=not_after).configure_cert(context)
    return context


@conforms
async def test_tls_keeps_the_name_for_sni_and_host(sender: Posts, authority: trustme.CA) -> None:
    asked: list[str | None] = []
    context = server_tls(authority, "localhost")
    context.sni_callback = lambda _object, name, _context: asked.append(name)
    async with WireServer(one_each, tls=context) as server:
        for _ in range(2):
            outcome = await post(sender, f"https://localhost:{server.port}")
            assert isinstance(outcome, Answered), outcome
        assert asked == ["localhost"]
        assert server.requests[1].header("host") == f"localhost:{server.port}"
        assert server.accepted == 1


@conforms
async def test_a_certificate_may_name_an_address(sender: Posts, authority: trustme.CA) -> None:
    async with WireServer(one_each, tls=server_tls(authority, "127.0.0.1")) as server:
        await answered(sender, server)


@pytest.mark.parametrize("fault", ["wrong host", "expired", "unknown authority"])
@conforms
async def test_a_certificate_that_does_not_hold_ends_the_post(sender: Posts, authority: trustme.CA, fault: str) -> None:
    issuer = trustme.CA() if fault == "unknown authority" else authority
    not_after = datetime.now(UTC) - timedelta(days=1) if fault == "expired" else None
    context = server_tls(issuer, "elsewhere.example" if fault == "wrong host" else "127.0.0.1", not_after=not_after)
    async with WireServer(one_each, tls=context) as server:
        await failed(sender, server.url, "tls_failed", timeout_s=3.0)
        assert server.requests == []


@conforms
async def test_a_plain_server_where_tls_is_asked_for(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with WireServer(behave) as server:
        await failed(sender, f"https://127.0.0.1:{server.port}", "tls_failed", timeout_s=3.0)
        await server.all_gone()


@conforms
async def test_a_server_that_is_silent_where_tls_is_asked_for(sender: Posts) -> None:
    async def behave(wire: Wire) -> None:
        await wire.until_gone()

    async with WireServer(behave) as server:
        await failed(sender, f"https://127.0.0.1:{server.port}", "connect_timeout")
        await server.all_gone()


@conforms
async def test_a_tls_connection_cut_mid_answer(sender: Posts, authority: trustme.CA) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        wire.reset()

    async with WireServer(behave, tls=server_tls(authority, "127.0.0.1")) as server:
        await failed(sender, server.url, "connection_reset", timeout_s=3.0)


@conforms
async def test_many_at_once(sender: Posts) -> None:
    async with WireServer(one_each) as server:
        outcomes = await asyncio.gather(*(post(sender, server.url) for _ in range(200)))
        assert all(isinstance(outcome, Answered) and outcome.status == 200 for outcome in outcomes)
        assert len(server.requests) == 200
        assert server.accepted <= 200
