"""What the checks' answers, and their silence, mean for readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ingest_api.health import Check, HealthWatch


class HandClock:
    """Moves when it is told to; a sleep never ends, so each check runs once."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s

    async def sleep(self, delay_s: float) -> None:
        await asyncio.Event().wait()


def answer(text: str) -> Check:
    async def check() -> str:
        return text

    return check


async def silence() -> str:
    await asyncio.Event().wait()
    return ""


@asynccontextmanager
async def watching(clock: HandClock, **checks: Check) -> AsyncIterator[HealthWatch]:
    """Every check was asked once."""
    everything = {name: answer("") for name in ("kafka", "postgres", "redis", "records")} | checks
    watch = HealthWatch(everything, off=frozenset(), clock=clock)
    await watch.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    yield watch
    await watch.stop()


@pytest.mark.parametrize(
    ("name", "status"), [("kafka", "down"), ("records", "down"), ("postgres", "degraded"), ("redis", "degraded")]
)
async def test_only_kafka_and_skipped_records_take_readiness_away(name: str, status: str) -> None:
    async with watching(HandClock(), **{name: answer("broken")}) as watch:
        assert watch.report()["status"] == status
        assert watch.troubles == {name: "broken"}


async def test_all_well_is_ok() -> None:
    async with watching(HandClock()) as watch:
        assert watch.report()["status"] == "ok"
        assert set(watch.report()["checks"].values()) == {"ok"}


async def test_before_the_first_answer_kafka_is_down() -> None:
    async with watching(HandClock(), kafka=silence) as watch:
        assert watch.report()["status"] == "down"


async def test_a_postgres_that_stands_still_is_degraded_and_not_down() -> None:
    clock = HandClock()
    async with watching(clock, postgres=silence, records=silence) as watch:
        clock.s = 100.0
        assert watch.report()["status"] == "degraded"
        assert watch.troubles == {"postgres": "no answer for 100 s"}
