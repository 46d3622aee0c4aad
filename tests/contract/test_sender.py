"""What is ours alone: the address guard, the pool's bounds, lookups, what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest
import uvloop

from delivery_stream import resolver as resolver_module
from delivery_stream.connection import Connection
from delivery_stream.connection_pool import AGE_MAX_S, ConnectionPool, Origin
from delivery_stream.decision import Answered, NoAnswer, Outcome, Refused
from delivery_stream.resolver import Resolver
from delivery_stream.sender import Heard, Post, Sender
from shared.clock import SystemClock
from tests.conformance import InSteps
from tests.eventually import eventually
from tests.names import Names
from tests.receiver import Answer, Receiver
from tests.wire_server import OK, Wire, WireServer

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


def refused(outcome: Outcome) -> str:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def error_class(outcome: Outcome) -> str:
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.error_class


def status(outcome: Outcome) -> int:
    assert isinstance(outcome, Answered), outcome
    return outcome.status


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


# The pool


async def test_idle_connections_are_bounded_per_origin_and_in_all() -> None:
    async with Receiver() as one, Receiver() as two:
        sender = Sender(LOOPBACK, pool=ConnectionPool(idle_max=6, idle_max_per_origin=4))
        for receiver in (one, two):
            receiver.script("/", Answer(hold=True))
            posts = [asyncio.create_task(sender.post(receiver.url + "/", [], b"", 5.0)) for _ in range(10)]
            await receiver.wait_for(10)
            receiver.release()
            assert {status(outcome) for outcome in await asyncio.gather(*posts)} == {200}
            assert sender.idle_connections == (4 if receiver is one else 6)
        # the oldest gave way: four to the second receiver, two to the first
        assert status(await sender.post(two.url + "/", [], b"", 5.0)) == 200
        assert (one.connections_seen, two.connections_seen) == (10, 10)
        await sender.close()
        assert (sender.open_connections, sender.idle_connections) == (0, 0)


async def test_a_connection_that_ended_a_moment_ago_is_not_taken() -> None:
    pool = ConnectionPool()
    connection = pool.new(("http", "host", 80), "192.0.2.1")
    connection.reusable = True
    pool.put(connection)
    connection.reusable = False  # the end was read, the transport is not closed yet
    assert pool.take(connection.origin) is None
    assert pool.idle == 0
    await pool.close()


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK, pool=ConnectionPool(idle_s=0.05))
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        async with asyncio.timeout(5):
            while sender.open_connections:  # noqa: ASYNC110 - the pool tells nobody
                await asyncio.sleep(0.01)
        assert sender.idle_connections == 0
        await sender.close()


async def test_a_connection_is_not_used_again_beyond_its_age() -> None:
    class Noting(ConnectionPool):
        def new(self, origin: Origin, address: str) -> Connection:
            made.append(super().new(origin, address))
            return made[-1]

    made: list[Connection] = []
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK, pool=Noting())
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        for older_s, kept in ((AGE_MAX_S - 60, 1), (61, 0)):
            made[0].opened_s -= older_s
            assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
            assert sender.idle_connections == kept
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        assert (receiver.connections_seen, len(receiver.arrivals)) == (2, 4)
        await sender.close()


async def test_a_receivers_restart_is_noticed_by_the_pool() -> None:
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK)
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        await receiver.stop()
        assert error_class(await sender.post(receiver.url, [], b"", 5.0)) == "connect_failed"
        await receiver.start()
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        await sender.close()


async def test_close_ends_what_is_under_way() -> None:
    async with Receiver() as receiver:
        receiver.script_default(Answer(hold=True))
        sender = Sender(LOOPBACK)
        posting = asyncio.create_task(sender.post(receiver.url, [], b"", 30.0))
        await receiver.wait_for(1)
        await sender.close()
        assert error_class(await posting) == "connection_reset"
        assert sender.open_connections == 0


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_close_ends_a_handshake(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def behave(wire: Wire) -> None:
        await wire._reader.read(1)
        greeted.set()
        await wire.until_gone()

    async def run() -> None:
        sender = Sender(LOOPBACK)
        async with WireServer(behave) as server:
            posting = asyncio.create_task(sender.post(f"https://127.0.0.1:{server.port}", [], b"", 30.0))
            await greeted.wait()
            await sender.close()
            assert error_class(await posting) == "connection_reset"
            assert sender.open_connections == 0
            await server.all_gone()

    greeted = asyncio.Event()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


async def test_close_ends_what_no_task_waits_for() -> None:
    async with Receiver() as receiver:
        sender, heard = Sender(LOOPBACK), list[Heard]()
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        receiver.script_default(Answer(hold=True))
        made = sender.make(receiver.url, [], b"", 30.0)
        assert isinstance(made, Post)
        assert sender.post_soon(made, heard.append)
        assert not sender.post_soon(made, heard.append), "there is one connection, and it is in use"
        await receiver.wait_for(2)
        await sender.close()
        assert heard == [None]
        assert error_class(await sender.post_anew(made)) == "connection_reset"
        assert sender.open_connections == 0


async def test_a_fault_of_ours_while_it_is_sent_is_told_and_it_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_arguments: object) -> None:
        raise KeyError("a bug")

    async with Receiver() as receiver:
        sender, heard = Sender(LOOPBACK), list[Heard]()
        assert status(await sender.post(receiver.url, [], b"", 5.0)) == 200
        made = sender.make(receiver.url, [], b"", 5.0)
        assert isinstance(made, Post)
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_forget", fails)
            assert sender.post_soon(made, heard.append)
        assert heard == [], "later"
        await asyncio.sleep(0)
        assert [type(one) for one in heard] == [KeyError]
        await eventually(lambda: sender.open_connections == 0)
        assert len(receiver.arrivals) == 1
        await sender.close()


async def test_a_fault_of_ours_while_an_answer_is_read_is_told() -> None:
    class Broken(SystemClock):
        def now_ms(self) -> int:
            raise KeyError("a bug")

    async with Receiver() as receiver:
        receiver.script_default(Answer(503, (("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),)))
        sender, heard = Sender(LOOPBACK, clock=Broken()), list[Heard]()
        made = sender.make(receiver.url, [], b"", 5.0)
        assert isinstance(made, Post)
        with pytest.raises(KeyError):
            await sender.post_anew(made)
        assert sender.post_soon(made, heard.append)
        await eventually(lambda: bool(heard))
        assert [type(one) for one in heard] == [KeyError]
        assert (sender.idle_connections, sender.open_connections) == (1, 1)
        await sender.close()


async def test_a_post_after_close_or_waiting_for_a_lookup_then_is_an_outcome_too() -> None:
    names = Names(slow=["127.0.0.1"])
    names.gate.clear()
    async with Receiver() as receiver:
        sender = Sender(LOOPBACK, resolver=Resolver(names))
        posts = [asyncio.create_task(sender.post(f"http://slow:{receiver.port}/", [], b"", 30.0)) for _ in range(2)]
        async with asyncio.timeout(5):
            while not names.asked:  # noqa: ASYNC110 - the posts begin in the loop's next turns
                await asyncio.sleep(0)
        await sender.close()
        assert [error_class(outcome) for outcome in await asyncio.gather(*posts)] == ["dns_failed", "dns_failed"]
        names.gate.set()
        assert error_class(await sender.post("http://new/", [], b"", 1.0)) == "dns_failed"
        assert error_class(await sender.post(receiver.url, [], b"", 1.0)) == "connection_reset"
        assert sender.open_connections == 0
        assert receiver.arrivals == []


# Timings


@pytest.mark.parametrize("way", [Sender, InSteps])
async def test_where_the_time_went(way: type[Sender]) -> None:
    async def behave(wire: Wire) -> None:
        while True:
            await wire.request()
            await asyncio.sleep(0.05)
            await wire.send(OK)

    async with WireServer(behave) as server:
        sender = way(LOOPBACK, resolver=Resolver(Names(host=["127.0.0.1"])))
        url = f"http://host:{server.port}/"
        made = sender.make(url, [], b"body", 5.0)
        assert isinstance(made, Post)
        started_s = time.monotonic()
        first, second = [await sender.post(url, [], b"body", 5.0) for _ in range(2)]
        assert isinstance(first, Answered)
        assert isinstance(second, Answered)
        assert server.accepted == 1
        assert first.timings.dns_ms is not None
        assert first.timings.connect_ms is not None
        assert first.timings.tls_ms is None
        assert second.timings.dns_ms is second.timings.connect_ms is None
        for timings in (first.timings, second.timings):
            assert timings.address == "127.0.0.1"
            assert (timings.sent_bytes, timings.received_bytes) == (len(made.request), len(OK))
            assert timings.first_byte_ms is not None
            assert 45 <= timings.first_byte_ms <= timings.total_ms
        assert first.timings.total_ms + second.timings.total_ms <= (time.monotonic() - started_s) * 1000
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
