"""The circuit breaker, by example."""

from __future__ import annotations

from delivery_stream.breaker import FAILURES_IN_A_ROW, FIRST_OPEN_S, LONGEST_OPEN_S, RATIO_OF, Breaker


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(now_s)
    for _ in range(FAILURES_IN_A_ROW):
        breaker.failed(now_s, now_s)
    assert breaker.state == "open"
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(0.0)
    for _ in range(FAILURES_IN_A_ROW - 1):
        breaker.failed(0.0, 0.0)
    breaker.succeeded(0.0, 0.0)
    breaker.failed(0.0, 0.0)
    assert breaker.state == "closed"
    assert not opened().allows(0.0)


def test_more_than_half_of_what_ended_lately_opens_it_too() -> None:
    breaker = Breaker(0.0)
    for number in range(RATIO_OF):
        assert breaker.state == "closed"
        breaker.succeeded(1.0, 1.0) if number % 5 in (0, 3) else breaker.failed(1.0, 1.0)
    assert breaker.state == "open"


def test_what_ended_long_ago_does_not_count() -> None:
    breaker = Breaker(0.0)
    for number in range(RATIO_OF - 2):
        breaker.failed(1.0, 1.0) if number % 4 else breaker.succeeded(1.0, 1.0)
    for _ in range(2):
        breaker.failed(100.0, 100.0)
    assert breaker.state == "closed"


def test_one_probe_goes_when_the_time_is_up_and_its_success_closes() -> None:
    breaker = opened()
    assert breaker.wait_s(0.0) == FIRST_OPEN_S
    assert breaker.allows(FIRST_OPEN_S)
    breaker.started()
    states: list[str] = [breaker.state]
    assert not breaker.allows(FIRST_OPEN_S)
    breaker.succeeded(FIRST_OPEN_S, FIRST_OPEN_S)
    assert [*states, breaker.state] == ["half_open", "closed"]
    assert breaker.wait_s(FIRST_OPEN_S) == 0


def test_each_failed_probe_doubles_the_wait_up_to_a_cap() -> None:
    breaker, now_s, waits = opened(), 0.0, []
    for _ in range(10):
        waits.append(breaker.wait_s(now_s))
        now_s += waits[-1]
        breaker.started()
        breaker.failed(now_s, now_s)
    assert waits[:4] == [FIRST_OPEN_S, 2 * FIRST_OPEN_S, 4 * FIRST_OPEN_S, 8 * FIRST_OPEN_S]
    assert waits[-1] == LONGEST_OPEN_S


def test_after_a_success_the_first_wait_is_short_again() -> None:
    breaker = opened()
    breaker.started()
    breaker.failed(5.0, 5.0)
    breaker.started()
    breaker.succeeded(15.0, 15.0)
    for _ in range(FAILURES_IN_A_ROW):
        breaker.failed(20.0, 20.0)
    assert breaker.wait_s(20.0) == FIRST_OPEN_S


def test_what_began_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    breaker = opened()
    breaker.succeeded(-1.0, 1.0)
    assert breaker.state == "open"
    breaker.failed(-1.0, 2.0)
    assert breaker.wait_s(2.0) == FIRST_OPEN_S - 2.0


def test_what_began_before_it_opened_is_not_taken_for_the_probe() -> None:
    breaker = opened()
    breaker.started()
    breaker.succeeded(0.0, 6.0)
    breaker.failed(0.0, 6.0)
    breaker.told_nothing(0.0)
    assert breaker.state == "half_open"
    assert not breaker.allows(100.0), "there is one already"


def test_what_began_before_it_opened_does_not_open_it_again() -> None:
    breaker = opened()
    breaker.started()
    breaker.succeeded(FIRST_OPEN_S, FIRST_OPEN_S)
    for _ in range(FAILURES_IN_A_ROW):
        breaker.failed(0.0, 6.0)
    assert breaker.state == "closed"
    assert breaker.in_a_row == 0


def test_a_probe_that_told_nothing_leaves_room_for_another() -> None:
    breaker = opened()
    breaker.started()
    breaker.told_nothing(FIRST_OPEN_S)
    assert breaker.allows(FIRST_OPEN_S)
