"""Rules of decide() that hold for every outcome."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery_stream.decision import RETRY_AFTER_MAX_S, Outcome, RetryIn, decide, retry_after_s
from shared.topics import RetrySchedule
from tests.strategies import outcomes, schedules


@given(st.data(), schedules())
def test_every_delivery_ends(data: st.DataObject, schedule: RetrySchedule) -> None:
    """Whatever the endpoint answers, a delivery ends within len(tiers) + 1 attempts."""
    answers = (decide(data.draw(outcomes()), n, schedule) for n in range(1, schedule.attempts_allowed + 1))
    assert any(not isinstance(decision, RetryIn) for decision in answers)


@given(outcomes(), st.integers(1, 10**6), schedules())
def test_a_retry_goes_to_a_tier_there_is_and_never_a_shorter_one_than_its_number_s(
    outcome: Outcome, attempt: int, schedule: RetrySchedule
) -> None:
    decision = decide(outcome, attempt, schedule)
    if isinstance(decision, RetryIn):
        own_s = schedule.delays_s[attempt - 1]
        assert decision.delay_s in schedule.delays_s
        assert decision.delay_s >= min(own_s, max(schedule.delays_s))
        assert decision.delay_s >= own_s or decision.delay_s == max(schedule.delays_s)


@given(st.text(max_size=60), st.integers(0, 2**42))
def test_no_retry_after_raises_or_asks_for_more_than_a_day(text: str, now_ms: int) -> None:
    assert 0 <= retry_after_s(text, now_ms) <= RETRY_AFTER_MAX_S


@given(st.integers(0, 10**30))
def test_retry_after_in_seconds_is_obeyed_up_to_a_day(wait_s: int) -> None:
    assert retry_after_s(str(wait_s), 0) == min(wait_s, RETRY_AFTER_MAX_S)
