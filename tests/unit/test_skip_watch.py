"""The watch over skipped records, with a log that starts where the test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka.errors import KafkaConnectionError

from shared.skip_watch import Positions, SkipWatch

P = ("webhooks.deliveries", 3)


class Starts:
    """Log starts by partition; counts the questions. Also answers as a broker that is away."""

    def __init__(self, **_: Any) -> None:
        self.start = 0
        self.away = False
        self.asked = 0

    async def beginning_offsets(self, partitions: list[Any]) -> Mapping[Any, int]:
        self.asked += 1
        if self.away:
            raise KafkaConnectionError
        return dict.fromkeys(partitions, self.start)


def _watch() -> tuple[SkipWatch, Starts]:
    starts = Starts()
    return SkipWatch(starts, "group"), starts


async def test_a_log_that_starts_above_the_committed_offset_is_an_alarm_even_when_nothing_is_left_in_it() -> None:
    watch, starts = _watch()
    starts.start = 120
    watch.assigned({P: 100})
    assert watch.due
    [alarm] = await watch.alarms()
    assert (alarm.kind, alarm.group, alarm.source) == ("records_skipped", "group", "webhooks.deliveries:3:100")
    assert (alarm.committed_offset, alarm.position) == (100, 120)
    assert "records_skipped" in watch.trouble


async def test_one_gap_is_one_alarm() -> None:
    watch, starts = _watch()
    starts.start = 120
    watch.assigned({P: 100})
    assert len(await watch.alarms()) == 1
    watch.received(P, 120, 130)
    assert not watch.due
    assert await watch.alarms() == []
    assert starts.asked == 1


async def test_a_group_without_a_committed_offset_skips_nothing() -> None:
    watch, starts = _watch()
    starts.start = 120
    watch.assigned({P: None})
    assert not watch.due
    watch.received(P, 120, 121)
    assert not watch.due
    assert starts.asked == 0


async def test_a_log_that_starts_at_or_below_the_committed_offset_is_no_alarm() -> None:
    watch, starts = _watch()
    for start in (0, 99, 100):
        starts.start = start
        watch.assigned({P: 100})
        assert await watch.alarms() == []
    assert watch.trouble == ""


async def test_holes_in_a_log_that_was_not_trimmed_are_no_alarm() -> None:
    watch, starts = _watch()
    starts.start = 100
    watch.assigned({P: 100})
    await watch.alarms()
    watch.received(P, 105, 110)
    assert watch.due
    assert await watch.alarms() == []
    watch.received(P, 111, 120)
    assert not watch.due
    assert starts.asked == 2


async def test_records_trimmed_under_a_running_reader_are_an_alarm_as_far_as_the_log_start_moved() -> None:
    watch, starts = _watch()
    watch.assigned({P: 100})
    await watch.alarms()
    watch.received(P, 100, 109)
    starts.start = 150
    watch.received(P, 155, 160)
    watch.received(P, 161, 170)
    [alarm] = await watch.alarms()
    assert (alarm.committed_offset, alarm.position) == (110, 150)


async def test_while_the_broker_is_away_the_comparison_stays_due() -> None:
    watch, starts = _watch()
    starts.start, starts.away = 120, True
    watch.assigned({P: 100})
    assert await watch.alarms() == []
    assert watch.due
    starts.away = False
    assert len(await watch.alarms()) == 1


async def test_a_partition_that_was_revoked_is_forgotten() -> None:
    watch, starts = _watch()
    starts.start = 120
    watch.assigned({P: 100})
    watch.revoked([P])
    assert not watch.due
    watch.received(P, 130, 131)
    assert not watch.due


async def test_every_partition_has_its_own_alarm_and_one_question_asks_for_all() -> None:
    watch, starts = _watch()
    starts.start = 50
    watch.assigned({("a", 0): 10, ("a", 1): 50, ("b", 0): 49})
    assert [alarm.source for alarm in await watch.alarms()] == ["a:0:10", "b:0:49"]
    assert starts.asked == 1


def test_going_back_is_no_doubt() -> None:
    positions = Positions()
    positions.assigned({P: 100})
    assert positions.settle(P, 100, 0) is None
    positions.received(P, 100, 120)
    positions.received(P, 90, 120)
    assert not positions.doubts


async def test_what_is_deleted_after_it_was_read_is_no_alarm_even_right_after_the_assignment() -> None:
    watch, starts = _watch()
    watch.assigned({P: 100})
    watch.received(P, 100, 119)
    starts.start = 120  # the janitor, before the watch has looked once
    assert not watch.due
    watch.received(P, 120, 125)
    assert await watch.alarms() == []
    starts.start = 140
    watch.received(P, 140, 150)
    [alarm] = await watch.alarms()
    assert (alarm.committed_offset, alarm.position) == (126, 140)
