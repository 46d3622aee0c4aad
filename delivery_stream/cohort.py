"""What comes in one turn of the loop, handled together in the next (docs/decisions/0013)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

#: Handled without a turn of the loop: answers wait for so long, and seem late by it.
IN_A_ROW = 64

_T = TypeVar("_T")


class Cohort(Generic[_T]):
    """``add`` each; up to `IN_A_ROW` of them are handled in one turn."""

    def __init__(self, handle: Callable[[Sequence[_T]], None]) -> None:
        """``handle`` gets one or more, in order; what it raises the loop only logs."""
        self._handle = handle
        self._waiting: list[_T] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: _T) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._handle_some)
        self._waiting.append(one)

    def handle_all(self) -> None:
        """Now, in this turn of the loop."""
        while self._waiting:
            self._handle_some()

    def _handle_some(self) -> None:
        several, self._waiting = self._waiting[:IN_A_ROW], self._waiting[IN_A_ROW:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._handle_some)
        if several:  # else `handle_all` was quicker
            self._handle(several)
