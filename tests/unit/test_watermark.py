"""The sink's watermark, without Kafka."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery_stream.watermark import Mark, Watermarks

_P = ("deliveries", 0)


def _watermarks(margin_ms: int = 100) -> Watermarks:
    return Watermarks(margin_ms)


def test_the_time_of_a_mark_is_reached_with_its_offset_and_less_the_margin() -> None:
    watermarks = _watermarks()
    assert watermarks.reached(_P, 10) is None
    watermarks.observed(_P, Mark(1000, 10))
    assert watermarks.reached(_P, 9) is None
    assert watermarks.reached(_P, 10) == 900
    assert watermarks.reached(_P, 10) is None


def test_a_later_mark_does_not_replace_one_that_is_not_reached() -> None:
    watermarks = _watermarks()
    watermarks.observed(_P, Mark(1000, 10))
    watermarks.observed(_P, Mark(2000, 20))
    assert watermarks.reached(_P, 15) == 900


def test_the_marks_of_a_revoked_partition_are_forgotten() -> None:
    watermarks = _watermarks()
    watermarks.observed(_P, Mark(1000, 10))
    watermarks.observed(("deliveries", 1), Mark(1000, 10))
    watermarks.revoked(_P)
    assert watermarks.reached(_P, 10) is None
    assert watermarks.reached(("deliveries", 1), 10) == 900


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=60))
def test_nothing_appended_before_the_watermark_is_unread(steps: list[tuple[int, int, bool]]) -> None:
    """Appends, reads and looks at the end in any order: what the watermark has passed was read."""
    watermarks = _watermarks(margin_ms=0)
    appended_ms: list[int] = []
    next_offset = 0
    for now_ms, (appends, reads, looks) in enumerate(steps, start=1):
        if looks:
            watermarks.observed(_P, Mark(now_ms, len(appended_ms)))
        appended_ms += [now_ms] * appends
        next_offset = min(next_offset + reads, len(appended_ms))
        passed_ms = watermarks.reached(_P, next_offset)
        if passed_ms is not None:
            assert all(at_ms >= passed_ms for at_ms in appended_ms[next_offset:])
