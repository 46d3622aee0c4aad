"""What is asked, how often, and for how long it is remembered."""

from __future__ import annotations

import asyncio

import pytest

from delivery_stream import resolver as resolver_module
from delivery_stream.resolver import FAILURE_TTL_S, TTL_MAX_S, TTL_MIN_S, Resolved, Resolver, Unresolved
from shared.address import read_address
from tests.names import Names


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def addresses(answer: Resolved | Unresolved) -> list[str]:
    assert isinstance(answer, Resolved), answer
    return [str(address) for address in answer.addresses]


@pytest.mark.parametrize(
    ("ttl_s", "kept_s"), [(0, TTL_MIN_S), (1, TTL_MIN_S), (60, 60), (300, 300), (86400, TTL_MAX_S), (2**31, TTL_MAX_S)]
)
async def test_an_answer_is_remembered_for_its_ttl_within_bounds(ttl_s: float, kept_s: float) -> None:
    time, names = Time(), Names(host=["192.0.2.1"])
    names.ttl_s = ttl_s
    resolver = Resolver(names, now_s=time)
    assert addresses(await resolver.resolve("host")) == ["192.0.2.1"]
    names.table["host"] = ["192.0.2.2"]
    time.now_s += kept_s - 0.1
    assert addresses(await resolver.resolve("host")) == ["192.0.2.1"]
    time.now_s += 0.2
    assert addresses(await resolver.resolve("host")) == ["192.0.2.2"]
    assert names.asked == ["host", "host"]
    await resolver.close()


async def test_that_there_is_no_address_is_remembered_briefly() -> None:
    time, names = Time(), Names()
    resolver = Resolver(names, now_s=time)
    for _ in range(3):
        assert await resolver.resolve("new") == Unresolved("no such name")
    names.table["new"] = ["192.0.2.1"]
    time.now_s += FAILURE_TTL_S + 0.1
    assert addresses(await resolver.resolve("new")) == ["192.0.2.1"]
    assert names.asked == ["new", "new"]
    await resolver.close()


async def test_many_who_ask_at_once_ask_once() -> None:
    names = Names(slow=["192.0.2.1"])
    names.gate.clear()
    resolver = Resolver(names)
    asking = [asyncio.create_task(resolver.resolve("slow")) for _ in range(100)]
    await asyncio.sleep(0)
    names.gate.set()
    assert {tuple(addresses(answer)) for answer in await asyncio.gather(*asking)} == {("192.0.2.1",)}
    assert names.asked == ["slow"]
    await resolver.close()


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    names = Names(slow=["192.0.2.1"])
    names.gate.clear()
    resolver = Resolver(names)
    impatient, patient = (asyncio.create_task(resolver.resolve("slow")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    names.gate.set()
    assert addresses(await patient) == ["192.0.2.1"]
    assert names.asked == ["slow"]
    await resolver.close()


async def test_what_is_remembered_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "REMEMBERED_MAX", 2)
    names = Names(a=["192.0.2.1"], b=["192.0.2.2"])
    resolver = Resolver(names)
    for host in ("a", "b", "nowhere", "nowhere", "b", "a"):
        await resolver.resolve(host)
    assert names.asked == ["a", "b", "nowhere", "a"]
    await resolver.close()


async def test_lookups_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "UNDER_WAY_MAX", 2)
    names = Names(slow1=["192.0.2.1"], slow2=["192.0.2.2"])
    names.gate.clear()
    resolver = Resolver(names)
    asking = [asyncio.create_task(resolver.resolve(f"slow{n}")) for n in (1, 2)]
    await asyncio.sleep(0)
    assert await resolver.resolve("third") == Unresolved("too many lookups under way")
    names.gate.set()
    await asyncio.gather(*asking)
    assert names.asked == ["slow1", "slow2"]
    await resolver.close()


async def test_a_lookup_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "LOOKUP_MAX_S", 0.01)
    names = Names()
    names.gate.clear()
    resolver = Resolver(names)
    assert await resolver.resolve("slow") == Unresolved("no answer in time")
    await resolver.close()


async def test_close_ends_what_is_under_way_and_starts_nothing_more() -> None:
    names = Names()
    names.gate.clear()
    resolver = Resolver(names)
    asking = asyncio.create_task(resolver.resolve("slow"))
    while not names.asked:  # noqa: ASYNC110 - the lookup begins in the loop's next turns
        await asyncio.sleep(0)
    await resolver.close()
    assert await asking == Unresolved("closed")
    assert await resolver.resolve("another") == Unresolved("closed")
    assert names.asked == ["slow"]
    assert names.closed


def test_an_address_is_read_without_its_zone() -> None:
    assert str(read_address("fe80::1%eth0")) == "fe80::1"
