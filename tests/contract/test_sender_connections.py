"""The sender's connections: how many are kept and for how long, what closing ends, what a post tells of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from ipaddress import ip_network

import pytest
import uvloop

from delivery_stream.connection import Connection
from delivery_stream.connection_pool import AGE_MAX_S, ConnectionPool, Origin
from delivery_stream.decision import Answered
from delivery_stream.resolver import Resolver
from delivery_stream.sender import Heard, Post, Sender
from shared.clock import SystemClock
from tests.conformance import InSteps
from tests.eventually import eventually
from tests.names import Names
from tests.outcomes import error_class, status
from tests.receiver import Answer, Receiver
from tests.wire_server import OK, Wire, WireServer

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


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
