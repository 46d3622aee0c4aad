"""Time as an argument, so that tests own it, and its one text form (RFC 3339, UTC, milliseconds)."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What follows a second: to format a number takes longer than to look it up.
_MILLISECONDS = tuple(f".{number:03}Z" for number in range(1000))
_MILLISECOND_OF = {text: number for number, text in enumerate(_MILLISECONDS)}


class Clock(Protocol):
    """What the shells need of time."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970."""
        ...

    def monotonic_s(self) -> float:
        """A clock that is never set back, seconds."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Come back after ``delay_s`` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


def to_rfc3339(at_ms: int) -> str:
    """``1700000000123`` -> ``2023-11-14T22:13:20.123Z``. Raises OverflowError outside the years 1 to 9999."""
    second, milliseconds = divmod(at_ms, 1000)
    return _to_the_second(second) + _MILLISECONDS[milliseconds]


@lru_cache(maxsize=64)
def _to_the_second(at_s: int) -> str:
    """Remembered: thousands of events share their second."""
    return (_EPOCH + timedelta(seconds=at_s)).isoformat(timespec="seconds").removesuffix("+00:00")


def from_rfc3339(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time with an offset. Raises ValueError."""
    if text[19:] in _MILLISECOND_OF:  # as we write it
        return _from_the_second(text[:19]) + _MILLISECOND_OF[text[19:]]
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without an offset")
    return to_ms(at)


@lru_cache(maxsize=64)
def _from_the_second(text: str) -> int:
    """Milliseconds since 1970 of ``2023-11-14T22:13:20``, UTC. Raises ValueError."""
    if "." in text or "," in text:
        raise ValueError("two fractions of a second")
    return to_ms(datetime.fromisoformat(text + "Z"))


def to_ms(at: datetime) -> int:
    """Milliseconds since 1970 of an aware datetime."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def to_datetime(at_ms: int) -> datetime:
    """The same instant as an aware datetime in UTC. Raises OverflowError outside the years 1 to 9999."""
    return _EPOCH + timedelta(milliseconds=at_ms)
