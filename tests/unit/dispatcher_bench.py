"""A dispatcher alone, whose records finish when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from delivery_stream.dispatcher import Dispatcher
from delivery_stream.lanes import Lanes
from delivery_stream.offsets import Commit
from shared.clock import SystemClock
from shared.records import Delivery
from shared.skip_watch import Positions
from tests.fakes import Handled

B0 = TopicPartition("b", 0)
P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
START = Commit(0, "")


class Bench:
    """A dispatcher whose records finish when told to."""

    def __init__(self, max_in_flight: int = 10) -> None:
        self.started: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.commits: list[Mapping[TopicPartition, Commit]] = []
        self.commit_works = True
        self.watch = Positions()
        self.crashes: list[BaseException] = []
        self.io = Handled(self._handle)
        self.clock = SystemClock()
        self.lanes: Lanes[Any] = Lanes(max_in_flight=max_in_flight, max_per_endpoint=100, patience_s=1.0)
        self.ours = True
        self.dispatcher = Dispatcher(
            self.io,
            lanes=self.lanes,
            may_start=lambda: self.ours,
            commit=self._commit,
            clock=self.clock,
            watch=self.watch,
            crash=self.crashes.append,
            beside={"b": self._one},
        )

    async def _handle(self, delivery: Delivery) -> None:
        assert delivery.source
        await self._one(SimpleNamespace(offset=delivery.source.offset, value=delivery.payload))

    async def _one(self, record: Any) -> None:
        self.started.append(record.offset)
        if record.value == b"raise":
            raise KeyError("a bug")
        await self.gates.setdefault(record.offset, asyncio.Event()).wait()

    async def _commit(self, commits: Mapping[TopicPartition, Commit]) -> bool:
        self.commits.append(commits)
        return self.commit_works

    async def finish(self, *offsets: int) -> None:
        for offset in offsets:
            self.gates.setdefault(offset, asyncio.Event()).set()
        await turns()


async def turns() -> None:
    """Let everything that can run, run."""
    for _ in range(14):
        await asyncio.sleep(0)


def records(*offsets: int, value: bytes = b"", topic: str = "t", endpoint: str = "") -> Sequence[Any]:
    """Each for an endpoint of its own, unless one is named."""
    return [
        SimpleNamespace(
            topic=topic,
            partition=0,
            offset=offset,
            value=value,
            timestamp=1,
            headers=[("subscription-id", (endpoint or f"endpoint-{offset}").encode())],
        )
        for offset in offsets
    ]
