"""Requests: made and sent together, without a task each where that needs only what is at hand."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, Literal

import pytest

from delivery_stream.deliver import Ended, Prepared
from delivery_stream.offsets import Commit, Tracker
from delivery_stream.repeats import Repeats
from delivery_stream.requests import Requests
from delivery_stream.under_way import Entry, Held, UnderWay
from shared.clock import SystemClock
from shared.completed_offsets import decode_completed
from shared.records import Delivery
from tests.eventually import eventually
from tests.fakes import Handled
from tests.unit.dispatcher_bench import P0, START, Bench, records, turns
from tests.unit.examples import delivery


async def test_what_starts_together_is_made_together_and_sent_afterwards() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(3)))
    assert (bench.io.steps, bench.dispatcher.in_flight) == ([], 3)
    await turns()
    assert bench.io.steps == ["prepare"] * 3 + ["post"] * 3
    assert (bench.started, bench.dispatcher.in_flight, bench.dispatcher._under_way.tasks) == ([0, 1, 2], 3, 0)
    await bench.finish(0, 1, 2)
    assert (bench.dispatcher.in_flight, bench.lanes.in_flight, bench.dispatcher.unfinished) == (0, 0, 0)


async def test_answers_are_heard_between_the_requests_of_many() -> None:
    async def answers(_delivery: Delivery) -> None:
        return None

    io, held, over, failed = Handled(answers), Held(Tracker(START)), list[Entry](), list[object]()
    under_way = UnderWay(SystemClock(), failed.append)
    requests = Requests(io, under_way, Repeats(), lambda entry, _ended: over.append(entry), failed.append, lambda: True)
    for number in range(200):
        requests.add(Entry.of(delivery(webhook_id=str(number)), number, held))
    assert (requests.out, held.out) == (200, 200)
    seen = [0]
    while seen[-1] < 200:
        await asyncio.sleep(0)
        seen.append(io.steps.count("post"))
    assert max(more - fewer for fewer, more in pairwise(seen)) == 64
    await turns()
    assert (len(over), failed, requests.out, held.out) == (200, [], 0, 0)


@pytest.mark.parametrize("posts", ["cut", "new"])
async def test_without_a_kept_connection_or_when_that_is_cut_it_is_posted_anew_once(
    posts: Literal["cut", "new"],
) -> None:
    bench = Bench()
    bench.io.posts = posts
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    await turns()
    assert (bench.io.steps, bench.started) == (["prepare"] * 2 + ["post"] * 2 + ["anew"] * 2, [0, 1])
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
    assert (bench.started, bench.io.steps, bench.dispatcher._under_way.tasks) == ([0], ["prepare"], 1)
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


@pytest.mark.parametrize("posts", ["kept", "new", "unprepared"])
async def test_a_hand_over_waits_for_requests_that_are_still_to_be_made(
    posts: Literal["kept", "new", "unprepared"],
) -> None:
    bench = Bench()
    bench.io.posts = posts
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    assert bench.io.steps == []
    revoking = asyncio.create_task(bench.dispatcher.revoked([P0]))
    await turns()
    assert (bench.started, revoking.done()) == ([0, 1], False)
    await bench.finish(0, 1)
    async with asyncio.timeout(1):
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


async def test_no_request_is_made_again_while_the_partitions_may_be_anothers() -> None:
    bench = Bench()
    bench.io.posts = "cut"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    bench.ours = False
    await turns()
    assert bench.io.steps == ["prepare", "post"]
    bench.ours = True
    await eventually(lambda: bench.started == [0])
    assert bench.io.steps == ["prepare", "post", "anew"]
    await bench.finish(0)


async def test_a_request_of_a_partition_that_went_is_not_made_again() -> None:
    bench = Bench()
    bench.io.posts = "cut"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    bench.ours = False
    await turns()
    await bench.dispatcher.revoked([P0])
    assert (bench.io.steps, bench.lanes.in_flight, bench.commits) == (["prepare", "post"], 0, [])


@pytest.mark.parametrize("step", ["prepare", "post_soon"])
async def test_a_request_that_cannot_be_made_or_sent_for_a_bug_ends_the_process_and_the_others_go_out(
    step: Literal["prepare", "post_soon"],
) -> None:
    bench = Bench()
    works = getattr(bench.io, step)

    def fails(what: Delivery | Prepared, *more: Any) -> Any:
        if (what.delivery if isinstance(what, Prepared) else what).payload == b"bad":
            raise KeyError("a bug")
        return works(what, *more)

    setattr(bench.io, step, fails)
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, [*records(0), *records(1, value=b"bad"), *records(2)])
    await bench.finish(0, 1, 2)
    assert [type(error) for error in bench.crashes] == [KeyError]
    assert (bench.started, bench.dispatcher.in_flight, bench.lanes.in_flight) == ([0, 2], 0, 0)
    await bench.dispatcher.commit()
    assert decode_completed(bench.commits[-1][P0]) == {2}


async def test_a_bug_behind_an_answer_ends_the_process_too() -> None:
    bench = Bench()

    def fails(_entry: Entry, _ended: Ended) -> None:
        raise KeyError("a bug")

    bench.dispatcher._requests._over = fails
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.finish(0)
    assert [type(error) for error in bench.crashes] == [KeyError]
    await bench.dispatcher.commit()
    assert bench.commits == []
