"""What ends together is concluded together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from delivery_stream.conclusions import TOGETHER_MAX, Conclusions


class Bench:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.confirmed = asyncio.Event()
        self.over = 0
        self.conclusions = Conclusions(self._conclude, self._is_over)

    async def _conclude(self, several: Sequence[int]) -> None:
        self.batches.append(list(several))
        await self.confirmed.wait()

    def _is_over(self, task: asyncio.Task[None]) -> None:
        self.over += 1


async def test_what_is_added_in_one_turn_goes_together_and_what_comes_later_does_not_wait_for_it() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.conclusions.add(number)
    assert bench.batches == [], "more may end in this turn"
    await asyncio.sleep(0)
    bench.conclusions.add(3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.batches == [[1, 2], [3]]
    assert len(bench.conclusions) == 3
    bench.confirmed.set()
    await asyncio.wait(bench.conclusions.tasks())
    assert (len(bench.conclusions), bench.over) == (0, 2)


async def test_so_many_at_a_time() -> None:
    bench = Bench()
    for number in range(2 * TOGETHER_MAX + 1):
        bench.conclusions.add(number)
    await asyncio.sleep(0.01)
    assert [len(batch) for batch in bench.batches] == [TOGETHER_MAX, TOGETHER_MAX, 1]
    assert [number for batch in bench.batches for number in batch] == list(range(2 * TOGETHER_MAX + 1))


async def test_who_waits_for_all_waits_for_what_was_added_just_now() -> None:
    bench = Bench()
    bench.conclusions.add(1)
    assert len(bench.conclusions.tasks()) == 1
    await asyncio.sleep(0.01)
    assert bench.batches == [[1]], "begun once"
