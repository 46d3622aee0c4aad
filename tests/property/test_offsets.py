"""Whatever the order of completion, nothing unfinished is ever committed past, and nothing finished is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery_stream.offsets import Tracker
from shared.completed_offsets import Commit, decode_completed, encode_completed

offset_lists = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(
    lambda gaps: [sum(gaps[: i + 1]) + i for i in range(len(gaps))]
)


@given(offset_lists, st.data())
def test_the_tracker_never_commits_past_an_unfinished_offset(offsets: list[int], data: st.DataObject) -> None:
    tracker = Tracker(Commit(0, ""))
    finish_order = data.draw(st.permutations(offsets))
    stop_at = data.draw(st.integers(0, len(offsets)))
    for offset in offsets:
        tracker.received(offset)
    for offset in finish_order[:stop_at]:
        tracker.done(offset)
        commit = tracker.commit()
        assert commit is not None
        unfinished = set(offsets) - set(finish_order[: finish_order.index(offset) + 1])
        assert all(commit.next_offset <= open_offset for open_offset in unfinished)
        assert not decode_completed(commit) & unfinished


@given(offset_lists, st.data())
def test_an_heir_is_asked_for_exactly_what_was_unfinished(offsets: list[int], data: st.DataObject) -> None:
    first = Tracker(Commit(0, ""))
    for offset in offsets:
        first.received(offset)
    finished = data.draw(st.sets(st.sampled_from(offsets), min_size=1))
    for offset in data.draw(st.permutations(sorted(finished))):
        first.done(offset)
    commit = first.commit()
    assert commit is not None
    second = Tracker(commit)
    again = [offset for offset in offsets if offset >= commit.next_offset and second.received(offset)]
    assert again == [offset for offset in offsets if offset not in finished]


@given(st.integers(0, 2**50), st.sets(st.integers(1, 3000), max_size=400))
def test_completed_sets_survive_the_way_through_the_commit(next_offset: int, above: set[int]) -> None:
    completed = sorted(next_offset + distance for distance in above)
    text = encode_completed(next_offset, [range(offset, offset + 1) for offset in completed])
    assert decode_completed(Commit(next_offset, text)) == set(completed)


@given(st.text(max_size=200))
def test_no_text_in_a_commit_raises(text: str) -> None:
    assert all(offset >= 7 for offset in decode_completed(Commit(7, text)))
    assert all(offset >= 7 for offset in decode_completed(Commit(7, "1:" + text)))
