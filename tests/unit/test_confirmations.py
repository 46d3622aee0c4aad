"""What becomes of requests that are over: concluded together, done one by one, and what a hand-over waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from delivery_stream.conclusion import Conclusion
from delivery_stream.deliver import Ended
from delivery_stream.offsets import Commit
from shared.completed_offsets import decode_completed
from tests.unit.dispatcher_bench import P0, START, Bench, records, turns


async def test_what_ends_together_is_concluded_together_and_each_is_done_when_its_own_record_is_confirmed() -> None:
    bench = Bench(max_in_flight=8)
    bench.io.sends = "waiting"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(3)))
    await bench.finish(0, 1, 2)
    assert (bench.io.concluded, len(bench.io.sent)) == ([3], 3)
    assert (bench.lanes.in_flight, bench.dispatcher.in_flight, bench.dispatcher.unfinished) == (3, 3, 3)
    await bench.dispatcher.commit()
    assert bench.commits == [], "not confirmed yet"
    bench.io.sent[2](True)
    assert (bench.lanes.in_flight, bench.dispatcher.in_flight, bench.dispatcher.unfinished) == (2, 2, 2)
    await bench.dispatcher.commit()
    assert decode_completed(bench.commits[-1][P0]) == {2}
    bench.io.sent[0](True)
    bench.io.sent[1](True)
    await bench.dispatcher.commit()
    assert bench.commits[-1][P0].next_offset == 3
    assert (bench.io.counted, bench.io.published) == (3, 0)


async def test_what_kafka_did_not_confirm_or_has_no_room_for_is_published_by_itself() -> None:
    bench = Bench()
    bench.io.sends = "waiting"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    await bench.finish(0)
    bench.io.sends = "full"
    await bench.finish(1)
    assert (bench.io.published, bench.dispatcher.unfinished) == (1, 1)
    bench.io.sent[0](False)
    await turns()
    assert (bench.io.published, bench.dispatcher.unfinished, bench.lanes.in_flight) == (2, 0, 0)


async def test_a_copy_waits_for_what_is_not_confirmed_and_begins_when_that_was_put_off() -> None:
    bench = Bench()
    bench.io.sends, bench.io.finishes = "waiting", False
    await bench.dispatcher.assigned({P0: START})
    first, copy = records(0, 1)
    for one in (first, copy):
        one.headers = [("subscription-id", b"endpoint"), ("webhook-id", b"the same")]
    await bench.dispatcher.take(P0, [first, copy])
    await bench.finish(0, 1)
    assert bench.started == [0]
    bench.io.sent[0](True)
    await turns()
    assert bench.started == [0, 1]


async def test_answers_are_heard_between_the_conclusions_of_many() -> None:
    bench = Bench(max_in_flight=400)
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(*range(200)))
    await turns()
    for offset in range(200):
        bench.gates.setdefault(offset, asyncio.Event()).set()
    seen: list[int] = []
    while sum(bench.io.concluded) < 200:
        seen.append(sum(bench.io.concluded))
        await asyncio.sleep(0)
    assert max(bench.io.concluded) == 64
    assert len(set(seen)) > 3, "a turn of the loop after each"


async def test_a_revoke_waits_until_what_came_of_the_requests_is_on_record() -> None:
    bench = Bench()
    bench.io.sends = "waiting"
    bench.io.confirms.clear()
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0, 1))
    await turns()
    revoking = asyncio.create_task(bench.dispatcher.revoked([P0]))
    await bench.finish(0, 1)
    assert bench.io.concluded == [2]
    bench.io.sent[0](True)
    bench.io.sent[1](False)
    await turns()
    assert not revoking.done(), "the second has to be published"
    bench.io.confirms.set()
    await revoking
    assert bench.commits == [{P0: Commit(2, "")}]


async def test_what_is_never_confirmed_holds_up_a_hand_over_for_a_bounded_time_and_is_not_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("delivery_stream.dispatcher.REVOKE_DRAIN_S", 0.05)
    bench = Bench()
    bench.io.sends = "waiting"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.finish(0)
    await bench.dispatcher.revoked([P0])
    await bench.dispatcher.assigned({P0: START})
    bench.io.sent[0](True)
    await bench.dispatcher.commit()
    assert bench.commits == []


async def test_what_was_not_confirmed_when_a_stop_ended_is_not_published_again() -> None:
    bench = Bench()
    bench.io.sends = "waiting"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.finish(0)
    assert await bench.dispatcher.drain(0.05) == 1
    bench.io.sent[0](False)
    await turns()
    assert (bench.io.published, bench.commits, bench.crashes) == (0, [], [])


async def test_one_that_cannot_be_concluded_ends_the_process_and_the_others_are_done() -> None:
    bench = Bench()
    conclude = bench.io.conclude

    def fails(ended: Sequence[Ended]) -> Sequence[Conclusion]:
        if any(one.delivery.payload == b"bad" for one in ended):
            raise KeyError("a bug")
        return conclude(ended)

    bench.io.conclude = fails  # type: ignore[method-assign]
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, [*records(0), *records(1, value=b"bad"), *records(2)])
    await bench.finish(0, 1, 2)
    assert bench.io.concluded == [1, 1], "all three together failed, then each went alone"
    assert [type(error) for error in bench.crashes] == [KeyError]
    await bench.dispatcher.commit()
    assert decode_completed(bench.commits[-1][P0]) == {2}
    assert (bench.commits[-1][P0].next_offset, bench.dispatcher.in_flight, bench.lanes.in_flight) == (1, 0, 0)


async def test_a_bug_behind_a_callback_ends_the_process_too() -> None:
    bench = Bench()
    bench.io.sends = "broken"
    await bench.dispatcher.assigned({P0: START})
    await bench.dispatcher.take(P0, records(0))
    await bench.finish(0)
    assert [type(error) for error in bench.crashes] == [KeyError]
    await bench.dispatcher.commit()
    assert bench.commits == []
