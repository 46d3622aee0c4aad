"""The memory of what is done."""

from __future__ import annotations

import asyncio

import pytest

from delivery_stream.repeats import Repeats


async def test_a_second_copy_waits_for_the_first_and_does_nothing() -> None:
    repeats, go, done = Repeats(), asyncio.Event(), list[str]()

    async def slowly() -> bool:
        await go.wait()
        done.append("once")
        return True

    copies = [asyncio.create_task(repeats.once("key", slowly)) for _ in range(3)]
    await asyncio.sleep(0)
    assert done == []
    go.set()
    assert await asyncio.gather(*copies) == [True, False, False]
    assert done == ["once"]


async def test_a_copy_runs_when_the_first_failed() -> None:
    repeats = Repeats()

    async def fails() -> bool:
        raise OSError("no")

    async def works() -> bool:
        return True

    with pytest.raises(OSError, match="no"):
        await repeats.once("key", fails)
    assert await repeats.once("key", works) is True


async def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    repeats = Repeats(remembered_max=2)

    async def works() -> bool:
        return True

    assert [await repeats.once(key, works) for key in ("a", "b", "c", "a", "c")] == [True, True, True, True, False]


async def test_one_that_was_put_off_is_asked_for_again() -> None:
    repeats = Repeats()

    async def not_now() -> bool:
        return False

    assert [await repeats.once("key", not_now) for _ in range(2)] == [True, True]
    assert "key" not in repeats
