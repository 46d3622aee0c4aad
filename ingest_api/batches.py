"""Many small calls as few large ones: what comes in while one batch is on its way makes the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from shared.clock import Clock

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

#: After a failure the store is left alone this long: a dead one must not cost each call its timeout.
_PAUSE_S = 3.0


class Batches(Generic[_Item, _Answer]):
    """Calls to one store, one batch at a time, each call with a deadline."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
        unreachable: tuple[type[Exception], ...],
        clock: Clock,
        *,
        most: int,
        timeout_s: float,
    ) -> None:
        """``run`` answers each item of a batch in its order, or raises one of ``unreachable`` for all of them."""
        self._name = name
        self._run = run
        self._unreachable = unreachable
        self._clock = clock
        self._most = most
        self._timeout_s = timeout_s
        #: In the order they came. Those that gave up are taken out: a store that stands still gathers nothing.
        self._waiting: dict[asyncio.Future[_Answer | None], _Item] = {}
        self._task: asyncio.Task[None] | None = None
        self._asleep_until_s = 0.0

    async def call(self, item: _Item) -> _Answer | None:
        """The answer, or None: the store is out of reach, or did not answer in time (and may have done it still)."""
        if self._clock.monotonic_s() < self._asleep_until_s:
            return None
        future: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = item
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name=f"{self._name}-batches")
        await asyncio.wait([future], timeout=self._timeout_s)
        if not future.done():
            future.cancel()  # whoever works on the batch passes it over
            self._waiting.pop(future, None)
            self._failed("Timeout")
            return None
        return future.result()

    async def stop(self) -> None:
        """What waits is answered with None."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        _answer(tuple(self._waiting), ())
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            batch = tuple(islice(self._waiting, self._most))
            items = [self._waiting.pop(future) for future in batch]
            try:
                answers = await self._run(items)
            except self._unreachable as error:
                self._failed(type(error).__name__)
                answers = ()
            _answer(batch, answers)
        self._task = None

    def _failed(self, error: str) -> None:
        if self._clock.monotonic_s() >= self._asleep_until_s:
            log.warning("store out of reach", extra={"store": self._name, "error": error})
        self._asleep_until_s = self._clock.monotonic_s() + _PAUSE_S


def _answer(batch: Sequence[asyncio.Future[_Answer | None]], answers: Sequence[_Answer]) -> None:
    """None for all of them when there are no answers."""
    for place, future in enumerate(batch):
        if not future.done():
            future.set_result(answers[place] if answers else None)
