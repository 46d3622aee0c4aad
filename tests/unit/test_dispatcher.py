"""The dispatcher alone: what it starts, what it commits, what a hand-over leaves."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from delivery_stream.beside import BESIDE_AT_ONCE
from delivery_stream.dispatcher import _UNCONFIRMED_MAX as UNCONFIRMED_MAX
from delivery_stream.offsets import Commit
from shared.completed_offsets import decode_completed
from shared.topics import home_partition
from tests.eventually import eventually
from tests.fakes import Handled
from tests.unit.dispatcher_bench import B0, P0, P1, START, Bench, records, turns
from tests.unit.examples import subscription


async def test_what_has_no_slot_waits_in_its_lane_and_starts_when_there_is_one() -> None:
    bench = Bench(max_in_flight=4)
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(6)))
    await turns()
    assert bench.started == [0, 1], "unknown endpoints get half of the slots"
    await bench.finish(1)
    assert bench.started == [0, 1, 2]
    await bench.finish(*range(6))
    assert sorted(bench.started) == list(range(6))
    await turns()
    await bench.dispatcher.commit()
    assert bench.commits[-1][P0].next_offset == 6


async def test_answers_are_heard_while_a_large_batch_is_taken() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await turns()
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(*range(1, 501))))
    await bench.finish(0)
    assert not taking.done()
    await bench.dispatcher.commit()
    assert bench.commits[-1][P0].next_offset == 1
    await taking
    await bench.dispatcher.drain(0)
    await bench.finish(*bench.started)


async def test_what_is_for_a_paused_subscription_is_kept_whatever_its_lane_waits_for() -> None:
    bench = Bench(max_in_flight=10)
    bench.io.subscriptions["paused"] = subscription(id="paused")
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(6), endpoint="paused"))
    await turns()
    assert bench.started == [0, 1, 2, 3], "the others wait in the lane"
    bench.io.subscriptions["paused"] = subscription(id="paused", status="paused")
    await bench.dispatcher.take(P0, records(6, 7, endpoint="paused"))
    await turns()
    assert [one.source.offset for one in bench.io.kept if one.source] == [6, 7]
    await bench.dispatcher.commit()
    assert decode_completed(bench.commits[-1][P0]) == {6, 7}
    await bench.finish(*range(6))


async def test_what_is_put_off_together_takes_room_until_it_is_confirmed_and_is_done_then() -> None:
    bench = Bench(max_in_flight=10)
    bench.io.confirms.clear()
    bench.io.subscriptions["dead"] = subscription(id="dead")
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(44), endpoint="dead"))
    await turns()
    assert bench.started == [0, 1, 2, 3]
    for put_off in bench.lanes.tick(bench.clock.monotonic_s() + 1.5):
        bench.dispatcher._put_offs.add(put_off)
    await eventually(lambda: len(bench.io.put_offs) == 40)
    await bench.dispatcher.commit()
    assert bench.commits == [], "nothing is done"
    assert len(bench.dispatcher._put_offs) == 40
    bench.io.confirms.set()
    await turns()
    assert len(bench.dispatcher._put_offs) == 0
    await bench.dispatcher.commit()
    assert decode_completed(bench.commits[-1][P0]) == set(range(4, 44))
    await bench.finish(0, 1, 2, 3)


async def test_what_kafka_has_still_to_confirm_is_bounded_and_more_is_taken_once_it_has() -> None:
    bench = Bench(max_in_flight=10)
    bench.io.confirms.clear()
    bench.io.sends = "waiting"
    bench.io.subscriptions["paused"] = subscription(id="paused", status="paused")
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(5)))
    await bench.finish(0, 1)
    room = 10 + UNCONFIRMED_MAX - 5  # three requests are under way, and two records for the attempt log
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(*range(5, room + 100), endpoint="paused")))
    await eventually(lambda: len(bench.io.kept) >= room)
    await turns()
    assert (len(bench.io.kept), taking.done()) == (room, False)
    ticking = asyncio.create_task(bench.dispatcher.tick_regularly(0.001))
    bench.io.confirms.set()
    await taking
    await turns()
    ticking.cancel()
    assert len(bench.io.kept) == room + 95
    await bench.finish(2, 3, 4)


async def test_what_is_put_off_takes_of_that_room_too() -> None:
    bench = Bench(max_in_flight=10)
    bench.io.confirms.clear()
    await bench.dispatcher.assigned({P0: START})
    now_s = bench.clock.monotonic_s()
    asked, request = bench.lanes.lane("asked", now_s), object()
    asked.started(request, now_s)
    asked.ended(request, "throttles", now_s, asked_s=60.0)
    taking = asyncio.create_task(
        bench.dispatcher.take(P0, records(*range(10 + UNCONFIRMED_MAX + 100), endpoint="asked"))
    )
    # Its tasks take of the room as well, each for many of them.
    await eventually(lambda: len(bench.io.put_offs) >= UNCONFIRMED_MAX - 100)
    await turns()
    assert len(bench.dispatcher._put_offs) <= 10 + UNCONFIRMED_MAX
    assert not taking.done()
    ticking = asyncio.create_task(bench.dispatcher.tick_regularly(0.001))
    bench.io.confirms.set()
    await taking
    await eventually(lambda: len(bench.io.put_offs) == 10 + UNCONFIRMED_MAX + 100)
    ticking.cancel()


async def test_an_endpoint_that_hangs_holds_up_nobody_else_and_what_waits_for_it_goes_elsewhere() -> None:
    bench = Bench(max_in_flight=10)
    bench.io.subscriptions["dead"] = subscription(id="dead")
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(8), endpoint="dead"))
    await turns()
    assert bench.started == [0, 1, 2, 3]
    await bench.dispatcher.take(P0, records(8, endpoint="alive"))
    await bench.finish(8)
    assert bench.started[-1] == 8
    later_s = bench.clock.monotonic_s() + 1.5
    for put_off in bench.lanes.tick(later_s):
        bench.dispatcher._put_offs.add(put_off)
    await eventually(lambda: {d.source.offset for d, _ in bench.io.put_offs if d.source} == {4, 5, 6, 7})
    await bench.dispatcher.commit()
    assert bench.commits[-1][P0].next_offset == 0
    await bench.finish(0, 1, 2, 3)
    await bench.dispatcher.commit()
    assert bench.commits[-1][P0].next_offset == 9


async def test_an_endpoint_whose_limits_are_not_in_memory_gets_one_and_then_no_more_than_they_say() -> None:
    bench = Bench()
    bench.io.posts = "unprepared"
    bench.io.found_later["limited"] = subscription(id="limited", rate_limit=0.01)
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(6), endpoint="limited"))
    await turns()
    assert bench.started == [0]
    await bench.finish(0)
    assert bench.started == [0, 1], "a bucket starts with one token"
    await bench.finish(1)
    assert bench.started == [0, 1]


async def test_a_limit_that_is_set_while_records_wait_holds_for_them() -> None:
    bench = Bench()
    bench.io.subscriptions["one"] = subscription(id="one")
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(8), endpoint="one"))
    await turns()
    bench.io.subscriptions["one"] = subscription(id="one", rate_limit=0.01)
    ticking = asyncio.create_task(bench.dispatcher.tick_regularly(0.001))
    await asyncio.sleep(0.01)
    await bench.finish(0, 1, 2, 3)
    ticking.cancel()
    assert bench.started == [0, 1, 2, 3, 4], "a bucket starts with one token"


async def test_another_url_is_another_endpoint() -> None:
    bench = Bench()
    bench.io.subscriptions["moved"] = subscription(id="moved")
    await bench.dispatcher.assigned({P0: START})
    lane = bench.lanes.lane("moved", bench.clock.monotonic_s())
    await bench.dispatcher.take(P0, records(0, 1, endpoint="moved"))
    await turns()
    await bench.finish(0, 1)
    assert lane.proven
    bench.io.subscriptions["moved"] = subscription(id="moved", target_url="https://example.com/another")
    await bench.dispatcher.take(P0, records(2, endpoint="moved"))
    await turns()
    assert not lane.proven, "begun anew"
    assert bench.started == [0, 1, 2]


async def test_no_request_starts_while_the_partitions_may_be_anothers() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    bench.ours = False
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(0)))
    ticking = asyncio.create_task(bench.dispatcher.tick_regularly(0.001))
    await asyncio.sleep(0.01)
    assert bench.started == []
    bench.ours = True
    await taking
    await bench.finish(0)
    ticking.cancel()
    assert bench.started == [0]


async def test_nor_does_what_waits_in_its_lane() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(6)))
    await turns()
    bench.ours = False
    await bench.finish(0)
    assert bench.started == [0, 1, 2, 3, 4]
    bench.ours = True
    await bench.finish(1)
    assert bench.started == [0, 1, 2, 3, 4, 5]
    await bench.finish(2, 3, 4, 5)


async def test_after_a_hand_over_only_the_lanes_of_our_partitions_go_on() -> None:
    bench = Bench()
    bench.dispatcher._io = Handled(bench._handle, partitions=2)
    names = {f"endpoint-{number}" for number in range(20)}
    for name in names:
        bench.lanes.lane(name, 0.0)
    await bench.dispatcher.assigned({P1: START, B0: START})
    assert {lane.key for lane in bench.lanes} == {name for name in names if home_partition(name, 2) == 1}


async def test_after_a_hand_over_a_backlog_for_who_had_no_time_to_answer_is_back_pressure() -> None:
    bench = Bench(max_in_flight=10)
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(5)))
    taking = asyncio.create_task(bench.dispatcher.take(P0, records(*range(5, 45), endpoint="new")))
    await turns()
    assert (bench.lanes.waiting, len(bench.dispatcher._put_offs), taking.done()) == (32, 0, False)
    await bench.finish(*range(45))
    await taking
    await turns()
    assert sorted(bench.started) == list(range(45))


async def test_a_record_done_before_is_not_done_again() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    first, second = records(0, 1, endpoint="one")
    for record in (first, second):
        record.headers.append(("webhook-id", b"same"))
    await bench.dispatcher.take(P0, [first])
    await bench.finish(0)
    await bench.dispatcher.take(P0, [second])
    await bench.dispatcher.commit()
    assert bench.started == [0]
    assert bench.commits[-1][P0].next_offset == 2


async def test_a_record_that_cannot_be_read_is_buried_and_one_of_another_partition_is_brought_home() -> None:
    bench = Bench()
    bench.io = Handled(bench._handle, partitions=2)
    bench.dispatcher._io = bench.io
    await bench.dispatcher.assigned({P0: START})
    unreadable, *others = records(0, 1, 2, 3, 4)
    unreadable.headers = []
    taking = bench.dispatcher.take(P0, [unreadable, *others])
    await taking
    await turns()
    assert bench.io.buried == [(0, "no subscription-id")]
    moved = {one.delivery.source.offset for one in bench.io.rehomed if one.delivery.source}
    assert moved
    assert moved.isdisjoint(bench.started)
    assert moved | set(bench.started) == {1, 2, 3, 4}
    await bench.finish(*bench.started)
    await bench.dispatcher.commit()
    assert bench.commits[-1][P0].next_offset == 5


async def test_what_waits_to_be_buried_when_its_partition_goes_is_left_to_the_next_owner() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    bench.dispatcher._aside_slots = asyncio.Semaphore(0)
    (unreadable,) = records(0)
    unreadable.headers = []
    taking = asyncio.create_task(bench.dispatcher.take(P0, [unreadable]))
    await turns()
    await bench.dispatcher.revoked([P0])
    bench.dispatcher._aside_slots.release()
    await taking
    await turns()
    assert not bench.io.buried
    await bench.dispatcher.take(P0, records(1))
    await turns()
    assert not bench.started, "it is not ours"


async def test_a_commit_gives_way_between_partitions_and_passes_over_a_log_that_was_replaced_meanwhile() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START, P1: START})
    for partition in (P0, P1):
        await bench.dispatcher.take(partition, records(0, endpoint=f"of {partition}"))
    await bench.finish(0)
    committing = asyncio.create_task(bench.dispatcher.commit())
    await asyncio.sleep(0)
    assert not committing.done()
    bench.dispatcher.start_again(P0, START)
    assert await committing
    assert bench.commits == [{P1: Commit(1, "")}]


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
    await bench.dispatcher.take(P0, records(0, 1))
    await turns()
    revoking = asyncio.create_task(bench.dispatcher.revoked([P0, P1]))
    await turns()
    assert not revoking.done()
    await bench.finish(0)
    await revoking
    assert bench.started == [0]
    assert bench.commits == [{P0: Commit(1, "")}]
    assert list(bench.dispatcher.partitions) == []


async def test_what_ends_after_the_hand_over_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delivery_stream.dispatcher.REVOKE_DRAIN_S", 0.01)
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.dispatcher.revoked([P0])
    await bench.dispatcher.assigned({P0: START})
    await bench.finish(0)
    await bench.dispatcher.commit()
    assert bench.commits == []


@pytest.mark.parametrize("posts", ["kept", "new", "unprepared"])
async def test_what_a_stop_cuts_off_is_nobody_s_failure(posts: Literal["kept", "new", "unprepared"]) -> None:
    bench = Bench()
    bench.io.posts = posts
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await turns()
    assert await bench.dispatcher.drain(0) == 1
    await bench.finish(0)
    assert bench.io.concluded == [], "the next owner starts with it"
    assert (bench.commits, bench.crashes) == ([], [])


async def test_what_a_stop_found_not_sent_yet_is_not_sent() -> None:
    bench = Bench()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    assert await bench.dispatcher.drain(0) == 1
    await bench.finish(0)
    assert bench.io.steps == []


async def test_an_error_nobody_turned_into_an_outcome_ends_the_process_and_leaves_the_offset_open() -> None:
    bench = Bench()
    bench.io.posts = "unprepared"
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
