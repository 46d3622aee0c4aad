"""The offset tracker, by example."""

from __future__ import annotations

import pytest

from delivery_stream.offsets import WINDOW, Tracker
from shared.completed_offsets import METADATA_MAX_CHARS, Commit, decode_completed, encode_completed


def received(tracker: Tracker, *offsets: int) -> list[int]:
    """Receive them all; gives those that still have to be done."""
    return [offset for offset in offsets if tracker.received(offset)]


def test_an_unfinished_head_holds_the_watermark_and_the_rest_is_remembered() -> None:
    tracker = Tracker(Commit(10, ""))
    received(tracker, 10, 11, 12, 13)
    for offset in (11, 13):
        tracker.done(offset)
    commit = tracker.commit()
    assert commit is not None
    assert commit.next_offset == 10
    assert decode_completed(commit) == {11, 13}


def test_a_finished_head_takes_the_watermark_past_everything_done_behind_it() -> None:
    tracker = Tracker(Commit(10, ""))
    received(tracker, 10, 11, 12)
    for offset in (11, 12, 10):
        tracker.done(offset)
    assert tracker.commit() == Commit(13, "")
    assert tracker.unfinished == 0


def test_holes_in_the_log_are_no_obstacle() -> None:
    tracker = Tracker(Commit(10, ""))
    received(tracker, 12, 40, 50)
    tracker.done(12)
    assert (tracker.commit() or Commit(0, "")).next_offset == 40
    tracker.done(50)
    commit = tracker.commit() or Commit(0, "")
    assert commit.next_offset == 40
    assert decode_completed(commit) == set(range(41, 51))
    tracker.done(40)
    assert tracker.commit() == Commit(51, "")


def test_the_next_owner_skips_what_was_done_above_the_watermark() -> None:
    first = Tracker(Commit(10, ""))
    received(first, 10, 11, 12, 13)
    first.done(11)
    first.done(13)
    second = Tracker(first.commit() or Commit(10, ""))
    assert received(second, 10, 11, 12, 13) == [10, 12]
    second.done(12)
    second.done(10)
    assert second.commit() == Commit(14, "")


def test_what_must_come_next_follows_what_came() -> None:
    tracker = Tracker(Commit(7, ""))
    assert tracker.expected_offset == 7
    received(tracker, 7, 8)
    assert tracker.expected_offset == 9


def test_nothing_new_is_not_committed_again_unless_it_failed() -> None:
    tracker = Tracker(Commit(0, ""))
    received(tracker, 0)
    tracker.done(0)
    assert tracker.commit() == Commit(1, "")
    assert tracker.commit() is None
    tracker.failed()
    assert tracker.commit() == Commit(1, "")


def test_a_partition_far_ahead_of_its_head_is_full_until_the_head_is_done() -> None:
    tracker = Tracker(Commit(0, ""))
    for offset in range(WINDOW):
        tracker.received(offset)
        if offset:
            tracker.done(offset)
    assert tracker.full
    tracker.done(0)
    assert not tracker.full
    assert tracker.commit() == Commit(WINDOW, "")


def test_metadata_never_passes_what_the_broker_takes_and_keeps_what_is_nearest() -> None:
    every_second = range(1, 2 * WINDOW, 2)
    text = encode_completed(0, [range(offset, offset + 1) for offset in every_second])
    assert len(text) <= METADATA_MAX_CHARS
    kept = sorted(decode_completed(Commit(0, text)))
    assert kept == list(every_second)[: len(kept)]
    assert len(kept) > 1000


@pytest.mark.parametrize("text", ["", "hello", "1:", "1:%%%", "1:////////////////////", "2:AQE=", "1:AQ=="])
def test_a_foreign_text_in_the_commit_is_as_if_there_were_none(text: str) -> None:
    assert decode_completed(Commit(5, text)) == frozenset()


def test_a_foreign_text_cannot_fill_the_memory() -> None:
    huge_run = "1:" + "AP////8P"  # gap 0, run of 2**32 - 1
    assert decode_completed(Commit(0, huge_run)) == frozenset()
