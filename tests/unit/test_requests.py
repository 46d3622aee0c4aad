"""Requests: made and sent together, without a task each where that needs only what is at hand."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Literal

import pytest

from delivery_stream.deliver import Prepared
from delivery_stream.offsets import Commit
from shared.completed_offsets import decode_completed
from shared.records import Delivery
from tests.unit.dispatcher_bench import P0, START, Bench, records, turns


async def test_what_starts_together_is_made_together_and_sent_afterwards() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(3)))
    assert (len(bench.io.prepared), bench.started, bench.dispatcher.in_flight) == (0, [], 3)
    await asyncio.sleep(0)
    assert len(bench.io.prepared) == 3
    await turns()
    assert (bench.started, bench.dispatcher.in_flight, bench.io.anew) == ([0, 1, 2], 3, [])
    assert not bench.dispatcher._under_way.tasks
    await bench.finish(0, 1, 2)
    assert (bench.dispatcher.in_flight, bench.lanes.in_flight, bench.dispatcher.unfinished) == (0, 0, 0)


async def test_answers_are_heard_between_the_requests_of_many() -> None:
    bench = Bench(max_in_flight=1000)
    await bench.dispatcher.assigned({P0: START})
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(*range(300))))
    seen = [0]
    while len(bench.io.prepared) < 300:
        await asyncio.sleep(0)
        seen.append(len(bench.io.prepared))
    assert max(more - fewer for fewer, more in pairwise(seen)) <= 64
    await taking
    await turns()
    await bench.finish(*range(300))
    assert bench.dispatcher.in_flight == 0


@pytest.mark.parametrize("posts", ["cut", "new"])
async def test_without_a_kept_connection_or_when_that_is_cut_it_is_posted_anew_once(
    posts: Literal["cut", "new"],
) -> None:
    bench = Bench()
    bench.io.posts = posts
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    await turns()
    assert (len(bench.io.prepared), len(bench.io.anew), bench.started) == (2, 2, [0, 1])
    assert (bench.dispatcher.in_flight, bench.dispatcher._under_way.tasks) == (2, 2)
    await bench.finish(0, 1)
    await bench.dispatcher.commit()
    assert (bench.commits[-1][P0].next_offset, bench.dispatcher.in_flight, bench.lanes.in_flight) == (2, 0, 0)


async def test_what_has_no_request_in_memory_is_delivered_by_a_task() -> None:
    bench = Bench()
    bench.io.posts = "unprepared"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await turns()
    assert (bench.started, bench.io.anew, bench.dispatcher._under_way.tasks) == ([0], [], 1)
    await bench.finish(0)
    assert (bench.dispatcher.in_flight, bench.dispatcher.unfinished) == (0, 0)


async def test_a_hand_over_waits_for_requests_that_no_task_has() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    await turns()
    revoking = asyncio.create_task(bench.dispatcher.revoked([P0]))
    await bench.finish(1)
    assert not revoking.done()
    await bench.finish(0)
    await revoking
    assert bench.commits == [{P0: Commit(2, "")}]


async def test_a_request_that_never_ends_holds_up_a_stop_for_a_bounded_time_and_is_not_committed() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    await bench.finish(1)
    assert await bench.dispatcher.drain(0.05) == 1
    assert decode_completed(bench.commits[-1][P0]) == {1}
    assert bench.commits[-1][P0].next_offset == 0
    await bench.finish(0)


async def test_a_request_that_cannot_be_sent_for_a_bug_ends_the_process_and_the_others_go_out() -> None:
    bench = Bench()
    prepare = bench.io.prepare

    def fails(delivery: Delivery) -> Prepared | None:
        if delivery.payload == b"bad":
            raise KeyError("a bug")
        return prepare(delivery)

    bench.io.prepare = fails  # type: ignore[method-assign]
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, [*records(0), *records(1, value=b"bad"), *records(2)])
    await bench.finish(0, 1, 2)
    assert [type(error) for error in bench.crashes] == [KeyError]
    assert (bench.started, bench.dispatcher.in_flight, bench.lanes.in_flight) == ([0, 2], 0, 0)
    await bench.dispatcher.commit()
    assert decode_completed(bench.commits[-1][P0]) == {2}
