"""Times as text: both ways agree with the standard library, whatever the text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from shared.clock import from_rfc3339, to_datetime, to_ms, to_rfc3339

#: Years 1 to 9999.
_TIMES = st.integers(-62_135_596_800_000, 253_402_300_799_999)


@given(_TIMES)
def test_a_time_round_trips_and_is_what_the_standard_library_writes(at_ms: int) -> None:
    text = to_rfc3339(at_ms)
    assert from_rfc3339(text) == at_ms
    at = datetime.fromisoformat(text)
    assert at.isoformat(timespec="milliseconds") == text.replace("Z", "+00:00")
    assert at.tzinfo == UTC


@st.composite
def _almost(draw: st.DrawFn) -> str:
    """A time in one of the forms of ISO 8601, with a fraction or two, and an offset or none."""
    form = draw(
        st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%Y%m%dT%H%M%S", "%G-W%V-%uT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H"])
    )
    text = to_datetime(draw(st.integers(0, 253_402_300_799_999))).strftime(form)
    fractions = draw(st.lists(st.sampled_from(["", ".0", ".000", ",123", ".123456"]), max_size=2))
    return text + "".join(fractions) + draw(st.sampled_from(["", "Z", ".123Z", "+01:00", "+01:00.123Z"]))


@given(_almost() | st.text(max_size=30))
@example("20260101T000000.000.123Z")
@example("2026-01-01T00:00:00.123Z")
@example("2026-01-01T00+01:00.123Z")
@example("2026-W01-1T00:00:00.123Z")
@example("20260101T000000.1234.123Z")
@example("20260101T000000.123.123Z")
def test_a_text_is_read_as_the_standard_library_reads_it_or_refused(text: str) -> None:
    assert _read_by(from_rfc3339, text) == _read_by(_standard_library, text)


def _read_by(reader: Callable[[str], int], text: str) -> int | None:
    try:
        return reader(text)
    except ValueError:
        return None


def _standard_library(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("no offset")
    return to_ms(at)
