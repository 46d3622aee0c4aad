"""One endpoint's lane, by example."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest

from delivery_stream.breaker import FAILURES_IN_A_ROW, FIRST_OPEN_S
from delivery_stream.lane import FIRST_WINDOW, SLOW_S, Health, Lane


@dataclass(eq=False)
class Item:
    queued_s: float = 0.0


def lane(window_max: int = 100) -> Lane[Item]:
    return Lane("endpoint", window_max, -100.0)


def one(of: Lane[Item], health: Health, now_s: float, took_s: float = 0.01, asked_s: float = 0.0) -> None:
    request = object()
    of.started(request, now_s - took_s)
    of.ended(request, health, now_s, asked_s=asked_s)


def fill(of: Lane[Item], now_s: float) -> list[object]:
    requests: list[object] = []
    while of.may_start(now_s):
        requests.append(object())
        of.started(requests[-1], now_s)
    return requests


def test_a_new_lane_takes_a_few_and_each_answer_to_a_full_one_makes_room_for_one_more() -> None:
    new = lane()
    requests = fill(new, 0.0)
    assert len(requests) == FIRST_WINDOW
    for request in requests:
        new.ended(request, "works", 0.1)
        fill(new, 0.1)
    assert new.window == 2 * FIRST_WINDOW


def test_what_is_not_used_does_not_grow() -> None:
    quiet = lane()
    for number in range(100):
        one(quiet, "works", number * 0.1)
    assert quiet.window == FIRST_WINDOW


def test_a_subscription_s_own_bound_holds_and_follows_its_changes() -> None:
    bound = lane()
    bound.limit(None, 2, 0.0)
    assert len(fill(bound, 0.0)) == 2
    bound.limit(None, 1, 0.0)
    assert bound.window == 1


def test_a_time_out_halves_the_window_and_a_quick_answer_ends_slow_mode() -> None:
    slow = lane()
    one(slow, "times_out", 10.0, took_s=10.0)
    assert (slow.window, slow.slow, slow.trusted) == (FIRST_WINDOW // 2, True, False)
    one(slow, "times_out", 20.0, took_s=10.0)
    one(slow, "times_out", 30.0, took_s=10.0)
    assert slow.window == 1
    one(slow, "works", 31.0, took_s=SLOW_S + 0.1)
    assert slow.slow
    one(slow, "works", 32.0)
    assert slow.trusted


def test_429_halves_the_window_once_a_round_trip_and_is_slow_mode() -> None:
    busy = lane()
    together = fill(busy, 10.0)
    for request in together:
        busy.ended(request, "throttles", 10.1)
    assert (busy.window, busy.slow, busy.trusted) == (FIRST_WINDOW // 2, True, False)
    one(busy, "throttles", 20.0)
    assert busy.window == FIRST_WINDOW // 4


def test_one_slow_answer_is_a_hiccup_and_a_second_one_is_slow_mode() -> None:
    sluggish = lane()
    for request in fill(sluggish, 0.0):
        sluggish.ended(request, "works", 2.0)
    assert not sluggish.slow
    one(sluggish, "works", 5.0, took_s=2.0)
    assert sluggish.slow
    again = lane()
    one(again, "works", 2.0, took_s=2.0)
    one(again, "works", 3.0)
    one(again, "works", 6.0, took_s=2.0)
    assert not again.slow


def test_a_slow_endpoint_that_works_gets_more_at_once() -> None:
    slow = lane(window_max=30)
    slow.queue.append(Item())
    for round_trip in range(6):
        for request in fill(slow, 5.0 * round_trip):
            slow.ended(request, "works", 5.0 * (round_trip + 1))
    assert (slow.slow, slow.trusted, slow.window) == (True, False, 30)


def test_429_without_a_time_pauses_a_second_and_then_longer() -> None:
    busy = lane()
    one(busy, "throttles", 0.0)
    assert not busy.may_start(0.9)
    assert busy.reason(0.9) == "throttled"
    assert busy.may_start(1.0)
    one(busy, "throttles", 1.0)
    assert busy.closed_s(1.0) == 2.0


def test_a_pause_without_a_time_doubles_up_to_a_minute_and_begins_anew_after_an_answer() -> None:
    busy, now_s, pauses_s = lane(), 0.0, list[float]()
    for _ in range(9):
        one(busy, "throttles", now_s)
        pauses_s.append(busy.closed_s(now_s))
        now_s += 1000.0
    assert pauses_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    one(busy, "works", now_s)
    one(busy, "throttles", now_s)
    assert busy.closed_s(now_s) == 1


def test_a_shorter_retry_after_does_not_shorten_a_pause() -> None:
    busy = lane()
    one(busy, "throttles", 0.0, asked_s=30.0)
    one(busy, "throttles", 0.1, asked_s=3.0)
    assert busy.closed_s(0.1) == 29.9


def test_retry_after_is_obeyed_by_the_whole_lane() -> None:
    asked = lane()
    one(asked, "throttles", 0.0, asked_s=30.0)
    assert not asked.may_start(29.9)
    assert asked.may_start(30.0)


def test_a_broken_endpoint_gets_nothing_until_its_probe() -> None:
    broken = lane()
    for _ in range(FAILURES_IN_A_ROW):
        one(broken, "fails", 0.0)
    assert broken.state == ("open", False)
    assert broken.reason(0.0) == "breaker_open"
    assert broken.wait_s(0.0) >= FIRST_OPEN_S
    assert len(fill(broken, FIRST_OPEN_S)) == 1


def test_requests_of_before_it_broke_are_not_taken_for_its_probe() -> None:
    broken = lane()
    older = [object(), object(), object()]
    for request in older:
        broken.started(request, -1.0)
    for _ in range(FAILURES_IN_A_ROW):
        one(broken, "fails", 0.0)
    assert len(fill(broken, FIRST_OPEN_S)) == 1
    broken.ended(older[0], "works", FIRST_OPEN_S + 0.1)
    broken.ended(older[1], "fails", FIRST_OPEN_S + 0.2)
    broken.ended(older[2], "unknown", FIRST_OPEN_S + 0.3)
    assert broken.breaker.state == "half_open"
    assert not broken.may_start(FIRST_OPEN_S + 100)


def test_a_probe_that_told_nothing_leaves_the_place_to_another() -> None:
    broken = lane()
    for _ in range(FAILURES_IN_A_ROW):
        one(broken, "fails", 0.0)
    [probe] = fill(broken, FIRST_OPEN_S)
    broken.ended(probe, "unknown", FIRST_OPEN_S + 1.0)
    assert len(fill(broken, FIRST_OPEN_S + 1.0)) == 1


def test_an_outcome_of_our_own_making_changes_nothing() -> None:
    untouched = lane()
    one(untouched, "unknown", 0.0, took_s=20.0)
    assert not untouched.proven
    assert (untouched.window, untouched.slow, untouched.wait_s(0.0)) == (FIRST_WINDOW, False, 0.0)


def test_who_has_not_answered_for_long_is_at_least_as_slow_as_that() -> None:
    silent = lane(window_max=4)
    fill(silent, 0.0)
    assert silent.wait_s(0.0) == 0
    assert silent.wait_s(8.0) == pytest.approx(2.0)
    silent.queue.extend([Item(), Item()])
    assert silent.wait_s(8.0) == pytest.approx(6.0)


def test_a_burst_over_the_rate_comes_back_spread_out() -> None:
    limited = lane()
    limited.limit(10.0, 100, 0.0)
    fill(limited, 0.0)
    times = [limited.book(0.0, waits=0) for _ in range(50)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([0.1] * 49)
    assert times[-1] == pytest.approx(5.0, abs=0.3)


def test_a_newcomer_queues_behind_those_that_have_their_time() -> None:
    limited = lane()
    limited.limit(10.0, 100, 0.0)
    fill(limited, 0.0)
    assert not limited.has_backlog(0.0)
    for _ in range(30):
        limited.book(0.0, waits=0)
    assert limited.has_backlog(1.0)
    assert not limited.has_backlog(4.0)


def test_who_comes_back_too_early_waits_for_the_queue_and_not_behind_everybody() -> None:
    limited = lane()
    limited.limit(1.0, 100, 0.0)
    fill(limited, 0.0)
    for _ in range(100):
        limited.book(0.0, waits=0)
    assert limited.book(0.0, waits=1) < 3.0


def test_a_promise_is_bounded() -> None:
    limited = lane()
    limited.limit(0.001, 100, 0.0)
    fill(limited, 0.0)
    assert max(limited.book(0.0, waits=0) for _ in range(1000)) <= 24 * 3600


@pytest.mark.parametrize(("backlog_s", "soonest_s", "latest_s"), [(9, 2.5, 5.0), (90, 10.0, 40.0), (9000, 40.0, 80.0)])
def test_who_is_far_from_its_turn_does_not_come_back_again_and_again_until_then(
    backlog_s: int, soonest_s: float, latest_s: float
) -> None:
    slow = lane(window_max=4)
    one(slow, "works", 0.0, took_s=4.0)
    one(slow, "works", 5.0, took_s=4.0)
    assert slow.slow
    fill(slow, 8.0)

    times = [slow.book(8.0, waits=0) for _ in range(backlog_s)]

    assert soonest_s <= min(times[-backlog_s // 10 :])
    assert max(times) <= latest_s


@pytest.mark.parametrize(("records", "in_a_second"), [(200, 21), (20_000, 250)])
@pytest.mark.parametrize("rate", [None, 5.0])
def test_what_a_broken_endpoint_keeps_out_comes_back_after_that_and_never_at_once(
    rate: float | None, records: int, in_a_second: int
) -> None:
    broken, now_s = lane(), 0.0
    broken.limit(rate, 100, now_s)
    while broken.closed_s(now_s) < 100:
        now_s += broken.closed_s(now_s)
        one(broken, "fails", now_s, took_s=0.0)
    shut_s = broken.closed_s(now_s)

    times = [broken.book(now_s, waits=1) for _ in range(records)]

    assert shut_s <= min(times) <= shut_s + 1
    assert max(times) <= 2 * shut_s
    assert max(Counter(map(int, times)).values()) <= in_a_second


def test_what_a_pause_keeps_out_comes_back_after_it_and_never_at_once() -> None:
    asked = lane()
    one(asked, "throttles", 0.0, asked_s=60.0)
    times = [asked.book(20.0, waits=0) for _ in range(1000)]
    assert min(times) == 40.0
    assert max(times) <= 100.0
    assert max(Counter(map(int, times)).values()) <= 30


def test_a_pause_of_a_day_and_its_way_back_are_a_day() -> None:
    asked = lane()
    one(asked, "throttles", 0.0, asked_s=24 * 3600.0)
    assert max(asked.book(0.0, waits=3) for _ in range(1000)) == 24 * 3600


def test_who_works_again_has_all_turns_from_the_first_on_when_it_breaks_anew() -> None:
    flapping = lane()
    one(flapping, "throttles", 0.0, asked_s=60.0)
    for _ in range(1000):
        flapping.book(0.0, waits=0)
    one(flapping, "throttles", 60.0, asked_s=60.0)
    assert flapping.book(60.0, waits=0) == 60.0


def test_only_a_lane_of_which_nothing_bad_is_known_may_be_forgotten() -> None:
    good, bad, busy = lane(), lane(), lane()
    one(good, "works", 1.0)
    one(bad, "fails", 1.0)
    fill(busy, 0.0)
    assert [each.forgettable(2.0) for each in (good, bad, busy)] == [True, False, False]
