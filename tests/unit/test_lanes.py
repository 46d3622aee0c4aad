"""All lanes of a worker and what they share, by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from delivery_stream.lane import FIRST_WINDOW, QUEUE_MAX, Health
from delivery_stream.lanes import TICK_S, WAITING_MAX, Lanes, PutOff, Verdict


@dataclass(eq=False)
class Entry:
    endpoint: str
    queued_s: float = 0.0
    timeout_s: float = 10.0
    size_bytes: int = 1000
    waits: int = 0


class Bench:
    """Lanes, and what is under way in them."""

    def __init__(self, max_in_flight: int = 20, max_per_endpoint: int = 20, **more: int) -> None:
        self.lanes: Lanes[Entry] = Lanes(
            max_in_flight=max_in_flight, max_per_endpoint=max_per_endpoint, patience_s=1.0, **more
        )
        self.under_way: list[Entry] = []
        self.now_s = 0.0

    def tick(self, until_s: float) -> list[PutOff[Entry]]:
        """As regularly as it wants to be, up to a time."""
        put_off: list[PutOff[Entry]] = []
        while self.now_s + TICK_S <= until_s + 1e-9:
            self.now_s += TICK_S
            put_off += self.lanes.tick(self.now_s)
        return put_off

    def send(self, endpoint: str, now_s: float, waits: int = 0) -> Verdict:
        entry, lane = Entry(endpoint, waits=waits), self.lanes.lane(endpoint, now_s)
        verdict = self.lanes.admit(entry, lane, now_s)
        if verdict is Verdict.START:
            self.lanes.start(entry, lane, now_s)
            self.under_way.append(entry)
        elif verdict is Verdict.WAIT:
            self.lanes.put_off(entry, lane, now_s)
        return verdict

    def end(self, endpoint: str, now_s: float, health: Health = "works", count: int = 1000) -> None:
        for entry in [one for one in self.under_way if one.endpoint == endpoint][:count]:
            self.under_way.remove(entry)
            self.lanes.ended(entry, health, now_s)
            self.lanes.confirmed()
        self.under_way += self.lanes.startable(now_s)

    def prove(self, endpoint: str, now_s: float) -> None:
        assert self.send(endpoint, now_s) is Verdict.START
        self.end(endpoint, now_s + 0.001)

    def of(self, endpoint: str) -> int:
        return sum(one.endpoint == endpoint for one in self.under_way)


def test_any_number_of_new_dead_endpoints_leaves_half_of_the_slots() -> None:
    bench = Bench()
    for number in range(100):
        bench.send(f"dead-{number}", 0.0)
    assert len(bench.under_way) == bench.lanes.apart == 10


def test_an_endpoint_that_answers_has_the_other_half_for_itself() -> None:
    bench = Bench()
    bench.prove("alive", 0.0)
    for number in range(100):
        bench.send(f"dead-{number}", 1.0)
    assert bench.send("alive", 1.0) is Verdict.START


def test_endpoints_that_die_together_take_no_more_than_a_fair_part_of_the_second_half() -> None:
    """All were quick a second ago; none answers from now on but one."""
    bench = Bench(max_in_flight=40)
    names = [f"endpoint-{number}" for number in range(12)]
    for name in (*names, "alive"):
        bench.prove(name, 0.0)
    for _ in range(20):
        for name in names:
            bench.send(name, 1.0)
    assert len(bench.under_way) < 40
    assert bench.send("alive", 1.0) is Verdict.START


def test_any_number_of_endpoints_that_die_together_leaves_a_quarter_of_the_slots_to_those_that_answer() -> None:
    bench = Bench(max_in_flight=40)
    names = [f"endpoint-{number}" for number in range(100)]
    for name in names:
        bench.prove(name, 0.0)
    for at_s in (1.0, 2.5, 4.0):
        bench.tick(at_s)
        for name in names:
            bench.send(name, at_s)
        assert len(bench.under_way) == 30, "the first time young, then old"


def test_who_answered_just_now_has_the_last_quarter_of_the_slots() -> None:
    bench = Bench(max_in_flight=40)
    names = [f"endpoint-{number}" for number in range(100)]
    for name in (*names, "alive"):
        bench.prove(name, 0.0)
    for name in names:
        bench.send(name, 0.99)
    bench.send("alive", 0.99)
    assert bench.of("alive") == 0, "silent for a second"
    bench.end("endpoint-0", 1.0)
    assert bench.send("endpoint-0", 1.01) is Verdict.START


def test_what_waits_for_a_slot_that_dead_endpoints_hold_goes_elsewhere_in_time() -> None:
    bench = Bench(max_in_flight=40)
    names = [f"endpoint-{number}" for number in range(100)]
    for name in (*names, "alive"):
        bench.prove(name, 0.0)
    bench.tick(1.0)
    for name in names[:30]:
        bench.send(name, 1.0)
    assert bench.send("alive", 1.0) is Verdict.QUEUED
    put_off = bench.tick(2.5)
    assert [(one.entry.endpoint, one.reason) for one in put_off] == [("alive", "busy")]
    for number in range(30):
        bench.end(names[number], 3.0, "times_out")
    assert bench.send("alive", 3.1) is Verdict.START


def test_requests_that_grow_old_are_counted_apart_and_those_that_end_are_not_any_more() -> None:
    bench = Bench()
    bench.prove("one", 0.0)
    bench.send("one", 1.0)
    assert bench.lanes.apart == 0
    bench.tick(2.1)
    assert bench.lanes.apart == 1
    bench.end("one", 2.2)
    assert bench.lanes.apart == 0


def test_who_is_slow_leaves_room_for_who_is_only_unknown() -> None:
    bench = Bench(max_in_flight=40)
    for at_s in (0.0, 2.0, 4.0, 6.0, 8.0):
        for _ in range(60):
            bench.send("slow", at_s)
        bench.end("slow", at_s + 1.9)
    assert bench.of("slow") == bench.lanes.apart == 10, "a quarter of all slots"
    assert bench.send("unknown", 10.0) is Verdict.START


def _fail_once_and_hang(bench: Bench, names: list[str]) -> None:
    """Who only fails, and quickly, holds no slot for long and is not counted."""
    for name in names:
        bench.send(name, 0.0)
        bench.end(name, 0.1, "fails")
        bench.send(name, 0.1)
    bench.tick(2.0)


def _answer_late_twice(bench: Bench, names: list[str]) -> None:
    for at_s in (0.0, 5.0):
        for name in names:
            bench.send(name, at_s)
        for name in names:
            bench.end(name, at_s + 2.0)


@pytest.mark.parametrize("make_bad", [_fail_once_and_hang, _answer_late_twice])
def test_those_known_to_be_bad_hold_a_quarter_together_and_those_unknown_the_rest_of_the_half(
    make_bad: Callable[[Bench, list[str]], None],
) -> None:
    bench, names = Bench(max_in_flight=40), [f"bad-{number}" for number in range(8)]
    make_bad(bench, names)
    for _ in range(FIRST_WINDOW):
        for name in names:
            bench.send(name, 10.0)
    assert len(bench.under_way) == bench.lanes.apart == 10
    for number in range(40):
        bench.send(f"unknown-{number}", 10.0)
    assert len(bench.under_way) == bench.lanes.apart == 20


def test_of_very_few_slots_one_is_left_for_who_is_known_to_be_bad() -> None:
    bench = Bench(max_in_flight=2)
    _answer_late_twice(bench, ["bad"])
    assert bench.send("bad", 10.0) is Verdict.START


def test_slots_are_given_in_turn_and_a_long_queue_has_no_advantage() -> None:
    bench = Bench(max_in_flight=2, max_per_endpoint=2)
    bench.prove("greedy", 0.0)
    bench.prove("modest", 0.0)
    for _ in range(50):
        bench.send("greedy", 0.02)
    assert bench.send("modest", 0.02) is Verdict.QUEUED
    bench.end("greedy", 0.021, count=1)
    bench.end("greedy", 0.022, count=1)
    assert bench.of("modest") == 1


def test_a_fast_lane_that_is_full_is_back_pressure_and_a_slow_one_overflows() -> None:
    fast, slow = Bench(), Bench()
    fast.prove("one", 0.0)
    verdicts = [fast.send("one", 1.0) for _ in range(QUEUE_MAX + 100)]
    assert verdicts[-1] is Verdict.FULL
    assert Verdict.WAIT not in verdicts
    assert slow.send("one", 0.0) is Verdict.START
    slow.end("one", 0.8)
    verdicts = [slow.send("one", 1.0) for _ in range(100)]
    assert verdicts.count(Verdict.QUEUED) <= 25
    assert verdicts[-1] is Verdict.WAIT


def test_when_all_slots_are_taken_by_quick_endpoints_nothing_overflows() -> None:
    bench = Bench(max_in_flight=4)
    for name in ("a", "b", "c", "d", "e"):
        bench.prove(name, 0.0)
    verdicts = [bench.send(name, 0.01) for _ in range(300) for name in ("a", "b", "c", "d", "e")]
    assert Verdict.WAIT not in verdicts
    assert verdicts[-1] is Verdict.FULL


def _everything(_key: str) -> bool:
    return True


def _backlog(bench: Bench, now_s: float) -> list[Verdict]:
    """A hundred for each of twenty endpoints."""
    return [bench.send(f"new-{number}", now_s) for _ in range(100) for number in range(20)]


def test_after_a_hand_over_a_backlog_for_endpoints_nobody_knows_yet_is_back_pressure() -> None:
    bench = Bench(max_in_flight=40)
    bench.lanes.keep(_everything, 0.0)
    verdicts = _backlog(bench, 0.0)
    assert Verdict.WAIT not in verdicts
    assert verdicts[-1] is Verdict.FULL


def test_once_most_first_requests_are_overdue_a_backlog_waits_elsewhere() -> None:
    bench = Bench(max_in_flight=40)
    bench.lanes.keep(_everything, 0.0)
    _backlog(bench, 0.0)
    bench.tick(1.1)
    assert _backlog(bench, 1.1)[-1] is Verdict.WAIT


def test_two_seconds_after_a_hand_over_nobody_is_back_pressure_for_being_new() -> None:
    bench = Bench(max_in_flight=40)
    bench.lanes.keep(_everything, 0.0)
    bench.tick(2.1)
    verdicts = _backlog(bench, 2.1)
    assert Verdict.FULL not in verdicts
    assert verdicts[-1] is Verdict.WAIT


def _after_a_first_answer(bench: Bench, now_s: float) -> list[Verdict]:
    """A new endpoint's first answer takes 0.2 s, as it does while hundreds of connections are opened; then a burst."""
    bench.tick(now_s)
    bench.send("new", now_s)
    bench.end("new", now_s + 0.2)
    return [bench.send("new", now_s + 0.2) for _ in range(150)]


def test_after_a_hand_over_one_late_answer_is_no_pace() -> None:
    bench = Bench()
    bench.lanes.keep(_everything, 0.0)
    assert Verdict.WAIT not in _after_a_first_answer(bench, 0.0)


def test_and_at_any_other_time_it_is() -> None:
    assert _after_a_first_answer(Bench(), 1.0)[-1] is Verdict.WAIT


def test_what_waited_for_a_dead_endpoint_is_put_off_when_its_patience_ends() -> None:
    bench = Bench()
    for _ in range(10):
        bench.send("dead", 0.0)
    assert bench.lanes.waiting == 6
    assert bench.tick(0.9) == []
    assert len(bench.tick(1.1)) == 6
    assert bench.lanes.waiting == bench.lanes.waiting_bytes == 0


def test_when_we_are_slow_ourselves_no_endpoint_is_blamed_and_nothing_is_put_off() -> None:
    bench = Bench()
    bench.prove("one", 0.0)
    bench.tick(0.1)
    for _ in range(10):
        bench.send("one", 0.1)
    for number in range(1, 20):
        assert list(bench.lanes.tick(0.1 + number * 0.5)) == []
    bench.end("one", 9.6)
    assert not bench.lanes.lane("one", 9.6).slow
    assert bench.lanes.waiting == 0


def test_a_lane_whose_time_has_come_starts_with_the_next_tick() -> None:
    bench = Bench()
    lane = bench.lanes.lane("limited", 0.0)
    lane.limit(2.0, 20, 0.0)
    assert [bench.send("limited", 0.0) for _ in range(2)] == [Verdict.START, Verdict.QUEUED]
    assert bench.tick(0.4) == []
    assert list(bench.lanes.startable(0.4)) == []
    assert bench.tick(0.6) == []
    assert len(list(bench.lanes.startable(0.6))) == 1


def test_who_comes_to_a_rate_whose_next_turns_are_promised_is_put_off_and_who_comes_back_for_its_own_is_not() -> None:
    bench = Bench()
    lane = bench.lanes.lane("limited", 0.0)
    lane.limit(10.0, 20, 0.0)
    assert bench.send("limited", 0.0) is Verdict.START
    for _ in range(30):
        bench.lanes.put_off(Entry("limited"), lane, 0.0)
    assert lane.may_start(0.5), "a second's worth may go at once"
    assert bench.send("limited", 0.5) is Verdict.WAIT
    assert bench.send("limited", 0.5, waits=1) is Verdict.START
    assert bench.send("limited", 10.0) is Verdict.START


@pytest.mark.parametrize(("own", "within_all"), [(None, 5), (3, 3), (8, 8), (50, 20)])
def test_a_subscription_s_own_bound_may_be_above_an_endpoint_s_usual_one_and_never_above_all_slots(
    own: int | None, within_all: int
) -> None:
    bench = Bench(max_in_flight=20, max_per_endpoint=5)
    lane = bench.lanes.lane("one", 0.0)
    bench.lanes.limit(lane, None, own, 0.0)
    assert lane.window_max == within_all


def test_what_waits_in_all_lanes_together_is_bounded() -> None:
    bench = Bench(max_in_flight=1000)
    names = [f"quick-{number}" for number in range(WAITING_MAX // QUEUE_MAX + 4)]
    for name in names:
        bench.prove(name, 0.0)
    verdicts = [bench.send(name, 0.01) for _ in range(QUEUE_MAX) for name in names]
    assert bench.lanes.waiting == verdicts.count(Verdict.QUEUED) == WAITING_MAX
    assert verdicts[-1] is Verdict.FULL
    assert Verdict.WAIT not in verdicts


def test_memory_is_bounded_by_bytes_too() -> None:
    bench = Bench(max_in_flight=2)
    bench.prove("one", 0.0)
    verdicts = []
    for _ in range(400):
        entry, lane = Entry("one", size_bytes=1024 * 1024), bench.lanes.lane("one", 0.1)
        verdicts.append(bench.lanes.admit(entry, lane, 0.1))
        if verdicts[-1] is Verdict.START:
            bench.lanes.start(entry, lane, 0.1)
    assert verdicts.count(Verdict.QUEUED) == 64
    assert verdicts[-1] is Verdict.FULL


def test_a_hand_over_drops_what_waits_and_forgets_the_lanes_that_went() -> None:
    bench = Bench()
    for name in ("ours", "theirs"):
        for _ in range(6):
            bench.send(name, 0.0)
    bench.lanes.drop(lambda entry: entry.endpoint == "theirs")
    bench.lanes.keep(lambda key: key == "ours", 0.0)
    assert bench.lanes.waiting == 2
    assert [lane.key for lane in bench.lanes] == ["ours"]
    bench.end("theirs", 0.1)
    assert bench.of("theirs") == 0


def test_lanes_are_bounded_and_the_broken_ones_are_remembered_longest() -> None:
    bench = Bench(lanes_max=10)
    assert bench.send("broken", 0.0) is Verdict.START
    bench.end("broken", 0.1, "fails")
    for number in range(50):
        bench.prove(f"fine-{number}", 1.0 + number)
    keys = [lane.key for lane in bench.lanes]
    assert len(keys) == 10
    assert "broken" in keys


def test_people_are_told_of_changes_and_not_of_every_flap() -> None:
    bench = Bench()
    assert bench.send("one", 0.0) is Verdict.START
    bench.end("one", 10.0, "times_out")
    assert [lane.state for lane in bench.lanes.changes(10.0)] == [("closed", True)]
    bench.send("one", 10.1)
    bench.end("one", 10.2)
    assert list(bench.lanes.changes(10.3)) == []
    assert [lane.state for lane in bench.lanes.changes(13.0)] == [("closed", False)]
    assert list(bench.lanes.changes(20.0)) == []


def test_of_a_lane_that_is_new_to_us_people_are_told_once_whatever_its_state() -> None:
    """Another worker may have said last that it was broken."""
    bench = Bench()
    bench.prove("one", 0.0)
    assert [lane.state for lane in bench.lanes.changes(3.0)] == [("closed", False)]
    bench.prove("one", 4.0)
    assert list(bench.lanes.changes(20.0)) == []


def test_a_request_far_beyond_its_deadline_is_noticed() -> None:
    bench = Bench()
    bench.send("one", 0.0)
    assert bench.lanes.overdue_s(19.0) <= 0
    assert bench.lanes.overdue_s(25.0) == 5.0


def test_a_pause_ends_when_the_subscription_leads_elsewhere() -> None:
    bench = Bench()
    lane = bench.lanes.lane("moving", 0.0)
    bench.lanes.aim(lane, "https://old.example", 0.0)
    bench.send("moving", 0.0)
    bench.send("moving", 0.0)
    older = bench.under_way[-1]
    bench.end("moving", 0.1, "throttles", count=1)
    assert [one.state for one in bench.lanes.changes(10.0)] == [("closed", True)]
    bench.lanes.aim(lane, "https://old.example", 10.0)
    assert lane.slow

    bench.lanes.aim(lane, "https://new.example", 10.0)

    assert (lane.state, lane.proven, lane.closed_s(10.0)) == (("closed", False), False, 0.0)
    assert not bench.lanes.loud
    assert [one.state for one in bench.lanes.changes(20.0)] == [("closed", False)]
    bench.lanes.ended(older, "times_out", 20.0)
    assert (lane.proven, lane.slow, lane.failing) == (False, False, False), "it was sent to the old one"
    assert bench.lanes.apart == 0
