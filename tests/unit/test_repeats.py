"""The memory of what is done."""

from __future__ import annotations

import asyncio

from delivery_stream.repeats import Repeats


async def test_a_second_copy_waits_for_the_first_and_does_nothing() -> None:
    repeats = Repeats()
    assert await repeats.begin("key")
    copies = [asyncio.create_task(repeats.begin("key")) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(copy.done() for copy in copies)
    repeats.end("key", finished=True)
    assert await asyncio.gather(*copies) == [False, False]


async def test_a_copy_runs_when_the_first_was_put_off_or_failed_and_only_one_of_them() -> None:
    repeats = Repeats()
    assert await repeats.begin("key")
    copies = [asyncio.create_task(repeats.begin("key")) for _ in range(2)]
    await asyncio.sleep(0)
    repeats.end("key", finished=False)
    done, waiting = await asyncio.wait(copies, return_when="FIRST_COMPLETED")
    assert [copy.result() for copy in done] == [True]
    assert "key" not in repeats
    repeats.end("key", finished=True)
    assert [await copy for copy in waiting] == [False]


async def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    repeats = Repeats(remembered_max=2)
    begun = []
    for key in ("a", "b", "c", "a", "c"):
        begun.append(await repeats.begin(key))
        if begun[-1]:
            repeats.end(key, finished=True)
    assert begun == [True, True, True, True, False]
