"""The dispatcher alone: what it starts, what it commits, what a hand-over leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from delivery_stream.dispatcher import BESIDE_AT_ONCE, Dispatcher
from delivery_stream.offsets import Commit
from shared.clock import SystemClock
from shared.skip_watch import Positions

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
        self.dispatcher = Dispatcher(
            self._handle,
            max_in_flight=max_in_flight,
            commit=self._commit,
            clock=SystemClock(),
            watch=self.watch,
            crash=self.crashes.append,
            beside={"b": self._handle},
        )

    async def _handle(self, record: Any) -> None:
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
    for _ in range(10):
        await asyncio.sleep(0)


def records(*offsets: int, value: bytes = b"", topic: str = "t") -> Sequence[Any]:
    return [SimpleNamespace(topic=topic, partition=0, offset=offset, value=value) for offset in offsets]


async def test_take_waits_for_room_and_for_nothing_else() -> None:
    bench = Bench(max_in_flight=2)
    await bench.dispatcher.assigned({P0: START})
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(0, 1, 2)))
    await turns()
    assert bench.started == [0, 1]
    assert not taking.done()
    await bench.finish(1)
    await taking
    await turns()
    assert bench.started == [0, 1, 2]
    await bench.finish(0, 2)


async def test_a_failed_commit_is_given_again() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.finish(0)
    bench.commit_works = False
    assert not await bench.dispatcher.commit()
    bench.commit_works = True
    assert await bench.dispatcher.commit()
    assert bench.commits == [{P0: Commit(1, "")}] * 2
    assert await bench.dispatcher.commit()
    assert len(bench.commits) == 2


async def test_a_revoke_waits_for_what_is_under_way_commits_it_and_starts_nothing_more() -> None:
    bench = Bench(max_in_flight=1)
    await bench.dispatcher.assigned({P0: START, P1: START})
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(0, 1)))
    await turns()
    revoking = asyncio.create_task(bench.dispatcher.revoked([P0, P1]))
    await turns()
    assert not revoking.done()
    await bench.finish(0)
    await asyncio.gather(taking, revoking)
    assert bench.started == [0]
    assert bench.commits == [{P0: Commit(1, "")}]
    assert list(bench.dispatcher.partitions) == []


async def test_what_ends_after_the_hand_over_is_not_committed() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.dispatcher.drain(0.01)
    await bench.dispatcher.revoked([P0])
    await bench.dispatcher.assigned({P0: START})
    await bench.finish(0)
    await bench.dispatcher.commit()
    assert bench.commits == []


async def test_an_error_nobody_turned_into_an_outcome_ends_the_process_and_leaves_the_offset_open() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, value=b"raise"))
    await turns()
    assert [type(error) for error in bench.crashes] == [KeyError]
    await bench.dispatcher.commit()
    assert bench.commits == []


async def test_the_watch_over_skipped_records_hears_of_assignments_and_batches() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: Commit(5, ""), P1: START})
    assert bench.watch.doubts == {P0: 5, P1: 0}
    await bench.dispatcher.take(P1, records(3))
    await bench.dispatcher.take(P1, records(8))
    assert bench.watch.doubts == {P0: 5, P1: 0}
    await bench.finish(3, 8)
    await bench.dispatcher.revoked([P0, P1])
    assert bench.watch.doubts == {}


async def test_a_topic_beside_waits_for_its_own_room_and_nobody_waits_for_it() -> None:
    bench = Bench(max_in_flight=1)
    await bench.dispatcher.assigned({P0: START, B0: START})
    await bench.dispatcher.take(B0, records(*range(100, 100 + BESIDE_AT_ONCE + 3), topic="b"))
    await turns()
    assert len(bench.started) == BESIDE_AT_ONCE
    assert not bench.dispatcher.has_room(B0)
    assert bench.dispatcher.has_room(P0)
    await bench.dispatcher.take(P0, records(1))
    await turns()
    assert bench.started[-1] == 1
    await bench.finish(1, *range(100, 104))
    assert len(bench.started) == BESIDE_AT_ONCE + 4
    assert bench.dispatcher.has_room(B0)
    assert await bench.dispatcher.commit()
    assert {tp: commit.next_offset for tp, commit in bench.commits[-1].items()} == {P0: 2, B0: 104}
    await bench.finish(*range(104, 200))


async def test_what_waits_beside_when_its_partition_goes_is_never_begun_and_not_committed() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({B0: START})
    await bench.dispatcher.take(B0, records(*range(BESIDE_AT_ONCE + 5), topic="b"))
    await turns()
    revoking = asyncio.create_task(bench.dispatcher.revoked([B0]))
    await bench.finish(*range(BESIDE_AT_ONCE))
    await revoking
    assert bench.started == list(range(BESIDE_AT_ONCE))
    assert bench.commits[-1][B0].next_offset == BESIDE_AT_ONCE
