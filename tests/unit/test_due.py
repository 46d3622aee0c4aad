"""What waits, when it goes, and which partition is not fetched meanwhile."""

from __future__ import annotations

from retry_scheduler.due import Changes, Due, Held, Limits, Partition, due_ms

ONE, TWO = Partition("retry-1s", 0), Partition("retry-9s", 0)


def held(partition: Partition, offset: int, due: int, size: int = 10) -> Held[str]:
    return Held(partition, offset, due, size, f"{partition.topic}/{offset}")


def queue(limits: Limits | None = None) -> Due[str]:
    due: Due[str] = Due(limits or Limits(records=4, total_bytes=1_000, ahead_ms=100))
    due.assign([ONE, TWO])
    return due


def test_a_record_is_due_its_tiers_delay_after_its_append() -> None:
    assert due_ms(appended_ms=5_000, fetched_ms=5_700, delay_s=10) == 15_000


def test_an_append_time_ahead_of_our_clock_waits_the_full_delay_from_the_fetch() -> None:
    assert due_ms(appended_ms=9_999_999, fetched_ms=5_700, delay_s=10) == 15_700


def test_a_record_without_a_time_waits_the_full_delay_from_the_fetch() -> None:
    assert due_ms(appended_ms=-1, fetched_ms=5_700, delay_s=10) == 15_700


def test_nothing_leaves_a_millisecond_early() -> None:
    due = queue()
    due.add([held(ONE, 0, 1_000)])
    assert due.take(999, 10) == []
    assert [one.offset for one in due.take(1_000, 10)] == [0]


def test_an_earlier_record_behind_a_later_one_waits_for_it() -> None:
    """A broker's clock that was set back delays, and changes no order."""
    due = queue()
    due.add([held(ONE, 0, 1_000), held(ONE, 1, 500)])
    assert due.take(999, 10) == []
    assert [one.offset for one in due.take(1_000, 10)] == [0, 1]


def test_a_backlog_leaves_room_for_the_other_partitions() -> None:
    due = queue(Limits(records=1_000))
    due.add([held(ONE, offset, 10) for offset in range(100)])
    due.add([held(TWO, 0, 900)])
    assert held(TWO, 0, 900) in due.take(1_000, 10)


def test_the_next_look_is_at_the_earliest_head() -> None:
    due = queue()
    assert due.next_look_ms() is None
    due.add([held(TWO, 0, 900), held(ONE, 0, 700)])
    assert due.next_look_ms() == 700
    assert due.oldest_ms() == 700


def test_a_partition_far_ahead_of_its_time_is_paused_and_fetched_again_in_time() -> None:
    due = queue()
    due.add([held(ONE, 0, 1_000)])
    assert due.fetching(0) == Changes([ONE], [])
    assert due.next_look_ms() == 900, "to fetch again, before it is due"
    assert due.fetching(899) == Changes([], [])
    assert due.fetching(900) == Changes([], [ONE])


def test_a_full_partition_is_paused_until_half_is_gone() -> None:
    due = queue()
    due.add([held(ONE, offset, 50) for offset in range(4)])
    assert due.fetching(0) == Changes([ONE], [])
    due.take(50, 2)
    assert due.fetching(50) == Changes([], [])
    due.take(50, 1)
    assert due.fetching(50) == Changes([], [ONE])


def test_bytes_fill_a_partition_too_and_each_has_its_share() -> None:
    due = queue()
    due.add([held(ONE, 0, 50, size=500), held(TWO, 0, 50, size=499)])
    assert due.fetching(0) == Changes([ONE], [])


def test_one_record_larger_than_its_share_does_not_stop_its_partition_for_good() -> None:
    due = queue()
    due.add([held(ONE, 0, 50, size=5_000)])
    assert due.fetching(0) == Changes([ONE], [])
    due.take(50, 1)
    assert due.fetching(50) == Changes([], [ONE])


def test_a_new_assignment_starts_empty_and_fetching() -> None:
    due = queue()
    due.add([held(ONE, 0, 10_000), held(TWO, 0, 10)])
    due.fetching(0)
    due.assign([ONE])
    assert (due.held, due.size_bytes, due.next_look_ms()) == (0, 0, None)
    assert due.take(99_999, 10) == []
    assert due.fetching(99_999) == Changes([], [])


def test_records_of_a_partition_that_was_revoked_are_not_taken_in() -> None:
    due = queue()
    due.assign([ONE])
    due.add([held(TWO, 0, 10)])
    assert due.held == 0


def test_a_clock_that_is_set_back_adds_its_tiers_delay_to_a_wait_at_most() -> None:
    due = queue(Limits(records=1_000, ahead_ms=100))
    due.add([held(ONE, 0, 3_601_000), held(ONE, 1, 3_602_000), held(TWO, 0, 900)])
    assert due.fetching(3_600_500).pause == [ONE]
    due.set_back(500, lambda partition: 1_000 if partition == ONE else 9_000)
    assert due.take(1_499, 10) == [held(TWO, 0, 900)], "what was due sooner than that stays so"
    assert due.fetching(1_400).resume == [ONE], "and what comes after it is fetched in time"
    assert [one.offset for one in due.take(1_500, 10)] == [0, 1]
