"""Our sender and aiohttp, against a server that speaks raw bytes: HTTP as it is, and kept connections."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from delivery_stream.decision import Answered, NoAnswer
from tests.conformance import Posts, answered, awaited_conforms, conforms, failed, ours_conforms, post
from tests.wire_server import OK, Wire, WireServer, answering, one_each, too_large

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
    async with WireServer(too_large) as server:
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


@conforms
async def test_many_at_once(sender: Posts) -> None:
    async with WireServer(one_each) as server:
        outcomes = await asyncio.gather(*(post(sender, server.url) for _ in range(200)))
        assert all(isinstance(outcome, Answered) and outcome.status == 200 for outcome in outcomes)
        assert len(server.requests) == 200
        assert server.accepted <= 200
