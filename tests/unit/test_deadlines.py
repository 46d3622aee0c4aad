"""Deadlines that share their timers."""

from __future__ import annotations

import asyncio

import pytest

from shared.deadlines import Deadlines


async def test_each_ends_in_its_time_and_those_that_are_done_are_left_alone() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines()
    began_s = loop.time()
    futures = [loop.create_future() for _ in range(4)]
    for number, future in enumerate(futures):
        deadlines.add(future, began_s + 0.1 * number)
    futures[1].set_result("in time")
    futures[2].cancel()
    with pytest.raises(TimeoutError):
        await futures[0]
    assert loop.time() - began_s < 0.1
    with pytest.raises(TimeoutError):
        await futures[3]
    assert 0.3 <= loop.time() - began_s < 0.45
    assert await futures[1] == "in time"
    assert futures[2].cancelled()


async def test_a_future_that_was_taken_out_is_forgotten() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines()
    future = loop.create_future()
    deadlines.add(future, loop.time() + 0.01).discard(future)
    await asyncio.sleep(0.15)
    assert not future.done()
    assert deadlines._waiting == {}
