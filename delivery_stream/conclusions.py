"""What ended in one turn of the loop, put on record together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Generic, TypeVar

#: At a time: what is made of so many is made in one turn of the loop.
TOGETHER_MAX = 64

_E = TypeVar("_E")


class Conclusions(Generic[_E]):
    """Hands what is added to ``conclude``, in batches, once the turn of the loop is over."""

    def __init__(
        self,
        conclude: Callable[[Sequence[_E]], Coroutine[None, None, None]],
        over: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """``over`` is told of each batch's task when that is done."""
        self._conclude = conclude
        self._over = over
        self._added: list[_E] = []
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._under_way = 0

    def __len__(self) -> int:
        """How many are not on record yet."""
        return len(self._added) + self._under_way

    def add(self, one: _E) -> None:
        """To be concluded soon."""
        if not self._added:
            asyncio.get_running_loop().call_soon(self._begin)
        self._added.append(one)

    def tasks(self) -> list[asyncio.Task[None]]:
        """All there is to wait for, begun."""
        self._begin()
        return list(self._tasks)

    def _begin(self) -> None:
        while batch := self._added[:TOGETHER_MAX]:
            del self._added[:TOGETHER_MAX]
            task = asyncio.create_task(self._conclude(batch))
            self._tasks[task] = len(batch)
            self._under_way += len(batch)
            task.add_done_callback(self._is_over)

    def _is_over(self, task: asyncio.Task[None]) -> None:
        self._under_way -= self._tasks.pop(task)
        self._over(task)
