"""What is ours alone: the address guard, lookups, what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest

from delivery_stream import resolver as resolver_module
from delivery_stream.decision import Answered, NoAnswer
from delivery_stream.resolver import Resolver
from delivery_stream.sender import Sender
from tests.names import Names
from tests.outcomes import error_class, refused, status
from tests.receiver import Receiver

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


# The guard


async def test_the_stacks_own_ports_are_refused_by_every_name_but_for_the_excepted_urls() -> None:
    names = Names(**{"own.example": ["127.0.0.1"]})
    async with Receiver() as own:
        excepted = f"{own.url}/point1"
        sender = Sender(LOOPBACK, [("127.0.0.1", own.port)], [excepted], resolver=Resolver(names))
        try:
            assert status(await sender.post(excepted, (), b"", 2)) == 200
            # The connection kept from the excepted one must not open a way to others.
            for url in (f"{own.url}/subscriptions/", f"{own.url}/point1?x", f"http://own.example:{own.port}/point1"):
                assert refused(await sender.post(url, (), b"", 2)) == "blocked", url
        finally:
            await sender.close()
        assert [arrival.path for arrival in own.arrivals] == ["/point1"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.1", "169.254.169.254"],
)
async def test_an_address_that_is_not_public_is_not_called(host: str) -> None:
    sender = Sender()
    assert refused(await sender.post(f"http://{host}:1/", [], b"", 1.0)) == "blocked"
    await sender.close()


async def test_a_name_with_one_refused_address_is_refused_whole() -> None:
    async with Receiver() as receiver:
        names = Names(mixed=["127.0.0.1", "10.0.0.1"], inside=["10.0.0.1"], fine=["127.0.0.1"])
        sender = Sender(LOOPBACK, resolver=Resolver(names))
        for host in ("mixed", "inside"):
            assert refused(await sender.post(f"http://{host}:{receiver.port}/", [], b"", 1.0)) == "blocked"
        assert status(await sender.post(f"http://fine:{receiver.port}/", [], b"", 1.0)) == 200
        assert [arrival.headers["host"] for arrival in receiver.arrivals] == [f"fine:{receiver.port}"]
        await sender.close()


async def test_a_refusal_keeps_what_a_name_means_inside_to_itself() -> None:
    sender = Sender(resolver=Resolver(Names(inside=["10.11.12.13"])))
    outcome = await sender.post("http://inside/", [], b"", 1.0)
    assert refused(outcome) == "blocked"
    assert "10.11.12.13" not in repr(outcome)
    await sender.close()


async def test_the_address_that_was_vetted_is_the_one_that_is_called() -> None:
    """A name that changes between looking and calling (DNS rebinding) has nothing to change: it is asked once."""
    async with Receiver() as receiver:
        names = Names(turning=["127.0.0.1"])
        names.ttl_s = 0
        sender = Sender(LOOPBACK, resolver=Resolver(names, ttl_min_s=0))
        assert status(await sender.post(f"http://turning:{receiver.port}/", [], b"", 1.0)) == 200
        assert names.asked == ["turning"]
        names.table["turning"] = ["169.254.169.254"]
        assert status(await sender.post(f"http://turning:{receiver.port}/", [], b"", 1.0)) == 200  # the kept connection
        await receiver.stop()
        assert refused(await sender.post(f"http://turning:{receiver.port}/", [], b"", 1.0)) == "blocked"
        await sender.close()


async def test_our_own_endpoints_are_never_called_whatever_is_allowed() -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK, {("127.0.0.1", receiver.port)})
        for host in ("127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "localhost"):
            assert refused(await sender.post(f"http://{host}:{receiver.port}/", [], b"", 1.0)) == "blocked"
        assert receiver.connections_seen == 0
        await sender.close()


@pytest.mark.parametrize(
    "url", ["http://0x7f.1/", "http://2130706433/", "http://127.1/", "ftp://a/", "http://u:p@a/", "x"]
)
async def test_an_unusual_url_is_refused_without_a_lookup(url: str) -> None:
    names = Names()
    sender = Sender(LOOPBACK, resolver=Resolver(names))
    assert refused(await sender.post(url, [], b"", 1.0)) == "bad_url"
    assert names.asked == []
    await sender.close()


# Headers


@pytest.mark.parametrize(
    "header",
    [
        ("a", "b\r\nc: d"),
        ("a", "b\nc"),
        ("a", "b\r"),
        ("a", "b\x00"),
        ("a", "\x7f"),
        ("a", "€"),
        ("a\r\nb", "c"),
        ("a b", "c"),
        ("a:", "c"),
        ("", "c"),
        ("ü", "c"),
        ("Host", "c"),
        ("content-length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "x"),
    ],
)
async def test_a_header_that_would_break_the_request_is_refused(header: tuple[str, str]) -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK)
        assert refused(await sender.post(receiver.url, [("fine", "1"), header], b"", 1.0)) == "bad_header"
        assert receiver.connections_seen == 0
        await sender.close()


# Lookups


async def test_a_name_that_does_not_exist() -> None:
    sender = Sender(resolver=Resolver(Names()))
    assert error_class(await sender.post("http://nowhere/", [], b"", 1.0)) == "dns_failed"
    await sender.close()


async def test_many_posts_to_a_new_host_ask_once_and_the_answer_is_remembered() -> None:
    async with Receiver() as receiver:
        names = Names(host=["127.0.0.1"])
        sender = Sender(LOOPBACK, resolver=Resolver(names))
        outcomes = await asyncio.gather(
            *(sender.post(f"http://host:{receiver.port}/", [], b"", 5.0) for _ in range(50))
        )
        assert {status(outcome) for outcome in outcomes} == {200}
        assert names.asked == ["host"]
        await sender.close()


async def test_a_slow_lookup_costs_its_own_host_the_deadline_and_others_nothing() -> None:
    async with Receiver() as receiver:
        names = Names(fast=["127.0.0.1"], slow=["127.0.0.1"])
        names.gate.clear()
        sender = Sender(LOOPBACK, resolver=Resolver(names))
        slow = [asyncio.create_task(sender.post(f"http://slow:{receiver.port}/", [], b"", 0.2)) for _ in range(100)]
        assert status(await sender.post(f"http://fast:{receiver.port}/", [], b"", 1.0)) == 200
        assert {error_class(outcome) for outcome in await asyncio.gather(*slow)} == {"dns_failed"}
        assert names.asked.count("slow") == 1
        names.gate.set()
        assert status(await sender.post(f"http://slow:{receiver.port}/", [], b"", 1.0)) == 200
        assert names.asked.count("slow") == 1
        await sender.close()


async def test_lookups_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "UNDER_WAY_MAX", 3)
    names = Names()
    names.gate.clear()
    sender = Sender(resolver=Resolver(names))
    waiting = [asyncio.create_task(sender.post(f"http://slow{n}/", [], b"", 0.2)) for n in range(4)]
    outcomes = await asyncio.gather(*waiting)
    assert {error_class(outcome) for outcome in outcomes} == {"dns_failed"}
    assert sum("too many lookups" in outcome.details for outcome in outcomes if isinstance(outcome, NoAnswer)) == 1
    names.gate.set()
    await sender.close()


# Several addresses


async def test_the_next_address_is_tried_when_one_does_not_take_the_connection() -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK, resolver=Resolver(Names(host=["::1", "127.0.0.9", "127.0.0.1"])))
        outcome = await sender.post(f"http://host:{receiver.port}/", [], b"", 1.0)
        assert status(outcome) == 200
        assert isinstance(outcome, Answered)
        assert outcome.timings.address == "127.0.0.1"
        await sender.close()


async def test_both_ip_versions_are_tried_however_many_addresses_one_has() -> None:
    async with Receiver() as receiver:
        many = [f"::ffff:127.0.1.{n}" for n in range(8)]
        sender = Sender(LOOPBACK, resolver=Resolver(Names(host=[*many, "127.0.0.1"])))
        assert status(await sender.post(f"http://host:{receiver.port}/", [], b"", 5.0)) == 200
        await sender.close()


async def test_a_silent_address_leaves_time_for_the_next() -> None:
    async with Receiver() as receiver:
        with socket.socket() as full:
            full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            full.bind(("127.0.0.9", receiver.port))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            sender = Sender(LOOPBACK, resolver=Resolver(Names(host=["127.0.0.9", "127.0.0.1"])))
            assert status(await sender.post(f"http://host:{receiver.port}/", [], b"", 0.6)) == 200
            for filler in fillers:
                filler.close()
            await sender.close()


# What we lack ourselves


@contextmanager
def no_descriptors() -> Iterator[Callable[[], None]]:
    """This process opens nothing new, until the end of the block or a call of what is given."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def again() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield again
    finally:
        again()


async def test_a_post_waits_for_a_descriptor_while_there_is_none() -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK)
        with no_descriptors() as again:
            asyncio.get_running_loop().call_later(0.3, again)
            assert status(await sender.post(receiver.url, (), b"", 2)) == 200
        await sender.close()


async def test_that_we_have_no_descriptor_is_no_fault_of_the_endpoints() -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK)
        with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
            await sender.post(receiver.url, (), b"", 0.4)
        assert status(await sender.post(receiver.url, (), b"", 2)) == 200
        await sender.close()
