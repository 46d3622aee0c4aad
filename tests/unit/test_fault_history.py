"""What a process may know of a subscription while it changes."""

from __future__ import annotations

import math

import pytest

from tests.faults.history import SEEN_S, History, Keys, signed_rightly


def test_a_change_may_be_seen_from_its_request_on_and_must_be_a_second_after_its_answer() -> None:
    urls = History("before", 0.0)
    urls.note("after", 10.0, 11.0)
    assert urls.values(9.0, 9.9) == ["before"]
    assert urls.values(10.0, 10.1) == ["before", "after"]
    assert urls.values(11.0 + SEEN_S, 20.0) == ["before", "after"]
    assert urls.values(11.1 + SEEN_S, 20.0) == ["after"]


def test_a_change_without_an_answer_may_have_come_to_pass_until_another_is_answered() -> None:
    urls = History("first", 0.0)
    urls.note("perhaps", 10.0)
    assert urls.values(50.0, 50.0) == ["first", "perhaps"]
    urls.note("third", 60.0, 61.0)
    assert urls.values(62.5, 62.5) == ["third"]


def rotated(*rotations: tuple[bytes | None, float, float, float]) -> History[Keys]:
    """(key, overlap, sent, acked) after a first key."""
    keys = History(Keys(b"0"), 0.0)
    for key, overlap_s, sent_s, acked_s in rotations:
        keys.note(Keys(key, overlap_s), sent_s, acked_s)
    return keys


@pytest.mark.parametrize(
    ("at_s", "signers", "right"),
    [
        (9.0, {0}, True),
        (9.0, {0, 1}, False),
        (10.5, {0}, True),
        (10.5, {0, 1}, True),
        (12.0, {0, 1}, True),
        (12.5, {0}, False),
        (12.5, {1}, False),
        (12.5, set(), False),
        (15.5, {1}, True),
        (15.5, {0, 1}, True),
        (16.5, {1}, True),
        (16.5, {0, 1}, False),
    ],
)
def test_during_the_overlap_both_sign_and_then_the_new_one_alone(at_s: float, signers: set[int], right: bool) -> None:
    keys = rotated((b"1", 5.0, 10.0, 11.0))
    assert signed_rightly(keys, (at_s, at_s), signers, 0) is right


def test_without_an_overlap_all_that_was_before_ends() -> None:
    keys = rotated((b"1", 60.0, 10.0, 10.0), (b"2", 0.0, 20.0, 20.0))
    assert signed_rightly(keys, (15.0, 15.0), {0, 1}, 0)
    assert signed_rightly(keys, (25.0, 25.0), {2}, 0)
    assert not signed_rightly(keys, (25.0, 25.0), {0, 1, 2}, 0)


def test_a_key_that_nobody_was_told_may_sign_and_the_one_before_may_go_on() -> None:
    keys = rotated((None, 3.0, 10.0, math.inf))
    assert signed_rightly(keys, (11.0, 11.0), {0}, 1)
    assert signed_rightly(keys, (30.0, 30.0), {0}, 0)
    assert signed_rightly(keys, (30.0, 30.0), set(), 1)
    assert not signed_rightly(keys, (30.0, 30.0), {0}, 2)
    keys.note(Keys(b"2", 0.0), 40.0, 40.0)
    assert not signed_rightly(keys, (45.0, 45.0), {2}, 1)


def test_a_key_ends_by_the_first_rotation_that_came_to_pass_and_nobody_knows_which_that_was() -> None:
    keys = rotated((None, 5.0, 10.0, math.inf), (b"2", 2.0, 11.0, 11.0))
    assert signed_rightly(keys, (12.5, 12.5), {0, 2}, 0), "the second, after two seconds"
    assert signed_rightly(keys, (13.5, 13.5), {2}, 0), "the second, and they are over"
    assert signed_rightly(keys, (13.5, 13.5), {0, 2}, 1), "the first, after five seconds"
    assert not signed_rightly(keys, (12.5, 12.5), {0}, 0)
    assert not signed_rightly(keys, (12.5, 12.5), {2}, 0)
