"""Receivers that mean us no good, a hundred requests at once each: cut in time, and nothing of them stays with us."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from ipaddress import ip_network

import pytest

from delivery_stream.decision import Answered, NoAnswer
from delivery_stream.sender import Sender
from tests.conformance import InSteps, Posts, ours_conforms
from tests.hostile import HOSTILE
from tests.wire_server import WireServer

AT_ONCE = 100
DEADLINE_S = 0.5
#: Of one request under way: at most the head that is too long, what is kept of the body, and what the parser holds. The
#: test server's own buffers are in it too.
BYTES_EACH = 256 * 1024
#: What may be left when all are over: far less than one answer each.
BYTES_LEFT = 1024 * 1024


@pytest.mark.parametrize("name", HOSTILE)
@ours_conforms
async def test_it_is_cut_in_time_and_its_connection_never_used_again(sender: Posts, name: str) -> None:
    hostile = HOSTILE[name]
    assert isinstance(sender, Sender)
    body = b"x" * 262_144
    async with WireServer(hostile.behave) as server:
        # What is cut by its bounds is cut long before this, however busy the machine.
        timeout_s = DEADLINE_S if hostile.error_class == "timeout" else 10.0
        posts = [sender.post(server.url, [], body, timeout_s) for _ in range(AT_ONCE)]
        outcomes = await asyncio.gather(*posts)
        for outcome in outcomes:
            if hostile.status is not None:
                assert isinstance(outcome, Answered), outcome
                assert outcome.status == hostile.status
                assert len(outcome.body) <= 8192
            else:
                assert isinstance(outcome, NoAnswer), outcome
                assert outcome.error_class == hostile.error_class, outcome
        await none_open(sender)
        assert server.accepted == AT_ONCE


@pytest.mark.parametrize("way", [Sender, InSteps])
@pytest.mark.parametrize("name", HOSTILE)
async def test_memory_stays_flat(name: str, way: type[Sender]) -> None:
    """Counted by Python itself, while a hundred of them do their worst, and afterwards."""
    await _a_hundred(name, way)  # what is made once is made now
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await _a_hundred(name, way)
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(
        f"{name}, {way.__name__}: {(peak - before) // AT_ONCE:,} bytes for each at most, {left - before:,} left of all"
    )
    assert peak - before < AT_ONCE * BYTES_EACH
    assert left - before < BYTES_LEFT


async def _a_hundred(name: str, way: type[Sender]) -> None:
    sender = way([ip_network("127.0.0.0/8")])
    async with WireServer(HOSTILE[name].behave) as server:
        await asyncio.gather(*(sender.post(server.url, [], b"x", DEADLINE_S) for _ in range(AT_ONCE)))
        await none_open(sender)
    await sender.close()
    await asyncio.sleep(0)  # the server's transports go in a turn of the loop


async def none_open(sender: Sender) -> None:
    """Every connection is closed and none is kept."""
    assert sender.idle_connections == 0
    async with asyncio.timeout(10):
        while sender.open_connections:  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0.005)
