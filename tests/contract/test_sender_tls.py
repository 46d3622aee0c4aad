"""Our sender and aiohttp, against a server that speaks TLS, well and badly."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from delivery_stream.decision import Answered
from delivery_stream.sender import Sender
from tests.conformance import Posts, answered, conforms, failed, ours_conforms, post
from tests.wire_server import OK, Behaviour, Wire, WireServer, one_each, too_large


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


@pytest.mark.parametrize("end", ["hang_up", "reset", "end"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@ours_conforms
async def test_a_kept_tls_connection_that_dies_unanswered_costs_one_resend(
    sender: Posts, authority: trustme.CA, end: str, version: str
) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        if wire.number > 1:
            await wire.send(OK)
        elif end == "hang_up":
            await wire.hang_up()
        elif end == "reset":
            wire.reset()
        else:
            wire.end()

    context = server_tls(authority, "127.0.0.1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with WireServer(behave, tls=context) as server:
        await answered(sender, server)
        await answered(sender, server)
        assert (server.accepted, len(server.requests)) == (2, 3)


@ours_conforms
async def test_an_early_answer_over_tls_counts_and_ends_the_connection(sender: Posts, authority: trustme.CA) -> None:
    async with WireServer(too_large, tls=server_tls(authority, "127.0.0.1")) as server:
        outcome = await post(sender, server.url, b"x" * 32_000_000)
        assert isinstance(outcome, Answered)
        assert outcome.status == 413
        await server.all_gone()
        await answered(sender, server, 413)
        assert server.accepted == 2


async def _speaks_first(wire: Wire) -> None:
    await wire.send(b"220 mail.example ESMTP\r\n")


async def _hangs_up(wire: Wire) -> None:
    await wire.hang_up()


async def _resets(wire: Wire) -> None:
    wire.reset()


async def _hangs_up_in_between(wire: Wire) -> None:
    await wire._reader.read(1)
    await wire.hang_up()


async def _resets_in_between(wire: Wire) -> None:
    await wire._reader.read(1)
    wire.reset()


@pytest.mark.parametrize("behave", [_speaks_first, _hangs_up, _resets, _hangs_up_in_between, _resets_in_between])
@ours_conforms
async def test_nothing_is_left_of_a_handshake_that_ended(sender: Posts, behave: Behaviour) -> None:
    assert isinstance(sender, Sender)
    async with WireServer(behave) as server:
        for _ in range(5):
            await failed(sender, f"https://127.0.0.1:{server.port}", "tls_failed", timeout_s=3.0)
        await server.all_gone()
        assert sender.open_connections == 0
