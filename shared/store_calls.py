"""Blocking calls of the Postgres driver from async code: threads of their own, and a deadline for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from shared.errors import StoreUnavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Longer than every timeout of the connection: Postgres takes calls and answers none.
_TIMEOUT_S = 15.0


class StoreCalls:
    """``await calls(function, argument, …)``."""

    def __init__(self, name: str, *, threads: int = 1, timeout_s: float = _TIMEOUT_S) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._timeout_s = timeout_s

    async def __call__(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What ``work`` gives and raises. Raises StoreUnavailable when it takes too long; it may end well later."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._timeout_s:g} s") from None

    def close(self) -> None:
        """Without waiting for a Postgres that stands still."""
        self._threads.shutdown(wait=False, cancel_futures=True)
