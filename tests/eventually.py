"""Wait for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """The first true answer of ``condition`` (a function or a coroutine function). Fails when there is none in time."""
    deadline_s = time.monotonic() + within_s
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        await asyncio.sleep(0.02)
