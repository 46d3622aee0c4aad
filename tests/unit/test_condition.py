"""When the scheduler calls itself stuck, and when ready."""

from __future__ import annotations

import pytest

from retry_scheduler.condition import Condition


class HandClock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def now_ms(self) -> int:
        return int(self.at_s * 1000)

    def monotonic_s(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        self.at_s += delay_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def test_a_record_overdue_and_no_progress_with_kafka_there_is_stuck(clock: HandClock) -> None:
    condition = Condition(clock)
    condition.broker("")
    due_ms = clock.now_ms()
    clock.at_s += 30
    assert condition.live(due_ms) == {}
    clock.at_s += 1
    assert "overdue by 31 s" in condition.live(due_ms)["forwarding"]
    condition.progress()
    assert condition.live(due_ms) == {}, "a backlog that moves is late and not stuck"


def test_nothing_due_is_never_stuck(clock: HandClock) -> None:
    condition = Condition(clock)
    condition.broker("")
    clock.at_s += 3_600
    assert condition.live(None) == {}
    assert condition.live(clock.now_ms() + 5_000) == {}


def test_while_kafka_is_away_and_just_after_nothing_is_our_fault(clock: HandClock) -> None:
    condition = Condition(clock)
    due_ms = clock.now_ms()
    condition.broker("no broker")
    clock.at_s += 600
    assert condition.live(due_ms) == {}
    condition.broker("")
    assert condition.live(due_ms) == {}
    clock.at_s += 31
    assert condition.live(due_ms)


def test_ready_names_what_is_missing(clock: HandClock) -> None:
    condition = Condition(clock)
    assert set(condition.ready("")) == {"kafka", "assignment"}
    condition.broker("")
    condition.assigned = True
    assert condition.ready("") == {}
    assert condition.ready("no acknowledgement") == {"kafka": "no acknowledgement"}
    condition.skipped = "records_skipped: …"
    assert set(condition.ready("")) == {"records_skipped"}
