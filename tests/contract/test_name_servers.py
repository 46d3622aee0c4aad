"""Lookups against a name server that is one: TTLs, aliases, families, TCP, and what it does when it is not well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import pycares
import pytest
import uvloop

from delivery_stream import name_servers as name_servers_module
from delivery_stream.name_servers import NameServers
from delivery_stream.resolver import Lookup, Resolved, Resolver, Unresolved
from shared.settings import name_server
from tests.eventually import eventually
from tests.name_server import EMPTY, NO_SUCH_NAME, SILENCE, NameServer, Says, says
from tests.names import Names


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer() as listening:
        yield listening


@pytest.fixture
async def lookup(server: NameServer) -> AsyncIterator[NameServers]:
    asking = NameServers([server.address])
    yield asking
    await asking.close()


def found(answer: Resolved | Unresolved) -> list[str]:
    assert isinstance(answer, Resolved), answer
    return [str(address) for address in answer.addresses]


async def is_found(lookup: Lookup, host: str) -> bool:
    return isinstance(await lookup(host), Resolved)


def missing(answer: Resolved | Unresolved) -> str:
    assert isinstance(answer, Unresolved), answer
    return answer.details


@pytest.mark.parametrize("fake", [True, False])
async def test_the_fake_answers_as_the_real_one(server: NameServer, lookup: NameServers, fake: bool) -> None:
    server.script("two.example", says("2001:db8::1", "192.0.2.1", "192.0.2.2"))
    asking: Lookup = Names(**{"two.example": ["2001:db8::1", "192.0.2.1", "192.0.2.2"]}) if fake else lookup
    first, *others = found(await asking("two.example"))
    assert (first, set(others)) == ("2001:db8::1", {"192.0.2.1", "192.0.2.2"})
    assert missing(await asking("none.example"))


async def test_an_answer_has_its_ttl(server: NameServer, lookup: NameServers) -> None:
    server.script("day.example", says("192.0.2.1", ttl_s=86400))
    server.script("none.example", says("192.0.2.1", ttl_s=0))
    assert await lookup("day.example") == Resolved((ip_address("192.0.2.1"),), 86400)
    assert await lookup("none.example") == Resolved((ip_address("192.0.2.1"),), 0)


async def test_a_chain_of_aliases_lives_as_long_as_its_shortest_link(server: NameServer, lookup: NameServers) -> None:
    chain = (("a.example", "b.example"), ("b.example", "c.example"))
    server.script("a.example", Says(("192.0.2.1", "2001:db8::1"), chain, ttl_s=600, alias_ttl_s=7))
    assert await lookup("a.example") == Resolved((ip_address("2001:db8::1"), ip_address("192.0.2.1")), 7)


async def test_aliases_in_a_circle_lead_nowhere(server: NameServer, lookup: NameServers) -> None:
    server.script("a.example", Says(aliases=(("a.example", "b.example"), ("b.example", "a.example"))))
    assert missing(await lookup("a.example"))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
async def test_one_family_is_enough(server: NameServer, lookup: NameServers, address: str) -> None:
    server.script("one.example", says(address))
    assert found(await lookup("one.example")) == [address]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
async def test_a_server_that_refuses_is_no_address(server: NameServer, lookup: NameServers, rcode: str) -> None:
    server.script("ill.example", Says(rcode=rcode))
    assert missing(await lookup("ill.example"))


async def test_a_name_that_comes_to_be_is_found(server: NameServer, lookup: NameServers) -> None:
    """Also after an empty answer, which c-ares by itself would repeat for an hour."""
    server.script("later.example", EMPTY, says("192.0.2.1"))
    server.script("created.example", NO_SUCH_NAME, says("192.0.2.2"))
    for host in ("later.example", "created.example"):
        assert missing(await lookup(host))
    # More than once: the memory is emptied by a thread that may still be at it.
    for host in ("later.example", "created.example"):
        await eventually(lambda host=host: is_found(lookup, host))  # type: ignore[misc]


async def test_what_is_truncated_is_asked_again_over_tcp(server: NameServer, lookup: NameServers) -> None:
    many = [f"192.0.2.{n}" for n in range(60)]
    server.script("many.example", says(*many))
    assert sorted(found(await lookup("many.example"))) == sorted(many)
    assert ("many.example", "A", "tcp") in server.questions


async def test_a_huge_answer_is_no_address_and_remembered_for_long(server: NameServer, lookup: NameServers) -> None:
    server.script("huge.example", says(*(f"10.1.{n // 250}.{n % 250}" for n in range(3900))))
    assert await lookup("huge.example") == Unresolved("more than 64 addresses", 300.0)


async def test_a_server_that_is_silent_for_one_family_costs_time_but_not_the_address(
    monkeypatch: pytest.MonkeyPatch, server: NameServer
) -> None:
    monkeypatch.setattr(name_servers_module, "TRY_S", 0.1)
    lookup = NameServers([server.address])
    server.script("half.example", Says(("192.0.2.1",), silent_for="AAAA"))
    assert found(await lookup("half.example")) == ["192.0.2.1"]
    await lookup.close()


async def test_silence_ends_and_the_next_server_is_asked(monkeypatch: pytest.MonkeyPatch, server: NameServer) -> None:
    monkeypatch.setattr(name_servers_module, "TRY_S", 0.1)
    server.script("host.example", SILENCE)
    alone = NameServers([server.address])
    assert missing(await alone("host.example"))
    await alone.close()
    async with NameServer() as second:
        second.script("host.example", says("192.0.2.1"))
        both = NameServers([server.address, second.address])
        assert found(await both("host.example")) == ["192.0.2.1"]
        await both.close()


async def test_slow_names_do_not_hold_up_others(server: NameServer, lookup: NameServers) -> None:
    server.script("fast.example", says("192.0.2.1"))
    resolver = Resolver(lookup)
    slow = []
    for n in range(200):
        server.script(f"slow{n}.example", Says(silent=True))
        slow.append(asyncio.create_task(resolver.resolve(f"slow{n}.example")))
    await server.wait_for_questions("slow0.example", 1)
    assert found(await resolver.resolve("fast.example")) == ["192.0.2.1"]
    assert not any(task.done() for task in slow)
    await resolver.close()
    assert {missing(await task) for task in slow} == {"closed"}


@pytest.mark.parametrize("watching", [True, False])
async def test_answers_are_read_while_our_loop_is_busy(
    monkeypatch: pytest.MonkeyPatch, server: NameServer, watching: bool
) -> None:
    """Over TCP is asked by who has read that the first answer was truncated.

    c-ares does without a thread of its own where it cannot watch /etc/resolv.conf: the machine has no inotify left.
    """

    def none_left(**options: Any) -> pycares.Channel:
        if "sock_state_cb" not in options:
            raise pycares.AresError
        return channel(**options)

    async def look_up() -> list[str]:
        lookup = NameServers([server.address])
        asking = asyncio.create_task(lookup("many.example"))
        async with asyncio.timeout(5):
            while not server.questions:  # noqa: ASYNC110 - it is of another thread
                await asyncio.sleep(0)
        ends_s = time.monotonic() + 5
        while not read() and time.monotonic() < ends_s:
            time.sleep(0.01)  # noqa: ASYNC251 - which is to be busy
        assert read()
        try:
            return found(await asking)
        finally:
            await lookup.close()

    def read() -> bool:
        return ("many.example", "A", "tcp") in server.questions

    channel = pycares.Channel
    if not watching:
        monkeypatch.setattr(pycares, "Channel", none_left)
    # The answer comes when the loop is busy already.
    server.script("many.example", Says(tuple(f"192.0.2.{n}" for n in range(60)), delay_s=0.2))
    assert len(await asyncio.to_thread(asyncio.run, look_up())) == 60


async def test_the_hosts_file_is_asked_first_and_localhost_is_loopback(lookup: NameServers) -> None:
    assert set(found(await lookup("localhost"))) <= {"127.0.0.1", "::1"}
    assert set(found(await lookup("any.localhost"))) == {"127.0.0.1", "::1"}


async def test_the_machines_search_list_counts(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said by resolv.conf(5)'s variables, since the file is the machine's."""
    monkeypatch.setenv("LOCALDOMAIN", "search.example")
    monkeypatch.setenv("RES_OPTIONS", "ndots:2")
    server.script("hook.search.example", says("192.0.2.1"))
    server.script("a.b.search.example", says("192.0.2.2"))
    lookup = NameServers([server.address])
    assert found(await lookup("hook")) == ["192.0.2.1"]
    assert found(await lookup("a.b")) == ["192.0.2.2"]
    assert ("a.b", "A", "udp") not in server.questions
    await lookup.close()


@pytest.mark.parametrize("host", ["a_b.example", "xn--bcher-kva.example", "a." * 100 + "example"])
async def test_every_name_a_target_may_have_is_asked_for(server: NameServer, lookup: NameServers, host: str) -> None:
    server.script(host, says("192.0.2.1"))
    assert found(await lookup(host)) == ["192.0.2.1"]


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "a b", "", "127.0.0.1.", "\x00"])
async def test_what_is_no_name_is_an_answer_too(lookup: NameServers, host: str) -> None:
    assert isinstance(await lookup(host), Resolved | Unresolved)


async def test_nothing_is_remembered_below_the_resolver(server: NameServer, lookup: NameServers) -> None:
    """c-ares by itself would keep every answer for as long as an hour, and count them to no end."""

    async def asked_again() -> bool:
        await lookup("host.example")
        return server.asked("host.example") > 1

    server.script("host.example", says("192.0.2.1", ttl_s=3600))
    await eventually(asked_again)


def test_it_works_on_the_loop_of_the_processes() -> None:
    async def look_up() -> list[str]:
        async with NameServer() as server:
            server.script("host.example", says("192.0.2.1"))
            lookup = NameServers([server.address])
            try:
                return found(await lookup("host.example"))
            finally:
                await lookup.close()

    assert uvloop.run(look_up()) == asyncio.run(look_up()) == ["192.0.2.1"]


async def test_one_that_was_never_asked_is_closed_without_having_started() -> None:
    await NameServers().close()


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("192.0.2.1", "192.0.2.1:53"),
        ("192.0.2.1:5353", "192.0.2.1:5353"),
        ("2001:db8::1", "[2001:db8::1]:53"),
        ("[2001:db8::1]", "[2001:db8::1]:53"),
        ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
    ],
)
async def test_a_server_is_named_by_address_and_perhaps_port(text: str, full: str) -> None:
    assert name_server(text) == full
    lookup = NameServers([full])
    assert found(await lookup("localhost"))  # the server is one that c-ares takes
    await lookup.close()


@pytest.mark.parametrize(
    "text", ["", "dns.example", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", "192.0.2", "[::1"]
)
def test_anything_else_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        name_server(text)
