"""When a worker that runs is as good as dead."""

from __future__ import annotations

from dataclasses import replace

from delivery_stream.watchdog import STANDSTILL_S, Vitals, stuck

WELL = Vitals(
    now_s=1000.0, turned_s=999.5, progress_s=999.0, heartbeat_s=998.0, work=10, overdue_s=-5.0, kafka_trouble=""
)
LONG_AGO_S = 1000.0 - STANDSTILL_S - 1


def test_a_worker_that_works_is_alive_and_so_is_an_idle_one() -> None:
    assert stuck(WELL) == {}
    assert stuck(replace(WELL, work=0, progress_s=LONG_AGO_S)) == {}


def test_a_request_beyond_twice_its_deadline_is_named() -> None:
    assert list(stuck(replace(WELL, overdue_s=3.0))) == ["request"]


def test_work_at_hand_and_nothing_finished_is_named() -> None:
    found = stuck(replace(WELL, progress_s=LONG_AGO_S))
    assert found == {"progress": "nothing was finished for 121 s, and 10 records wait"}


def test_a_loop_that_does_not_turn_is_named_unless_it_waits_for_room_that_is_being_made() -> None:
    assert stuck(replace(WELL, turned_s=LONG_AGO_S)) == {}
    assert list(stuck(replace(WELL, turned_s=LONG_AGO_S, progress_s=LONG_AGO_S, work=0))) == ["fetching"]


def test_a_group_that_does_not_answer_is_named() -> None:
    assert list(stuck(replace(WELL, heartbeat_s=LONG_AGO_S))) == ["group"]


def test_while_kafka_is_away_waiting_is_right() -> None:
    away = replace(WELL, progress_s=LONG_AGO_S, turned_s=LONG_AGO_S, heartbeat_s=LONG_AGO_S, kafka_trouble="gone")
    assert stuck(away) == {}
    assert list(stuck(replace(away, overdue_s=1.0))) == ["request"]
