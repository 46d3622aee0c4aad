"""What attempts say about their endpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.attempt_records import Attempt, LaneState
from shared.attempt_rows import LogRow, row_of_attempt, row_of_lane
from shared.clock import to_rfc3339
from shared.endpoint_rows import Seen, endpoints_seen
from shared.errors import UnreadableRecord
from shared.records import Source

ONE, OTHER = "0192c0de-0000-7000-8000-000000000001", "0192c0de-0000-7000-8000-000000000002"
HERE = Source("attempts", 3, 7)


def attempt(at_ms: int, outcome: Any = "failed_attempt", subscription_id: str = ONE, **changes: Any) -> LogRow:
    made = Attempt("attempt", f"w{at_ms}", subscription_id, 1, 1, 0, at_ms, outcome=outcome)
    return row_of_attempt(replace(made, **changes), HERE)


def at(at_ms: int) -> str:
    return to_rfc3339(at_ms)


def test_the_first_failure_after_the_last_success_is_where_failing_began() -> None:
    rows = [attempt(5), attempt(9), attempt(4, "succeeded"), attempt(2), attempt(7, "permanently_failed")]
    assert endpoints_seen(rows) == [Seen(ONE, at(4), at(9), at(5), None)]


def test_each_subscription_has_its_own_and_they_are_in_the_order_of_their_ids() -> None:
    """So that two sinks never wait for each other crosswise."""
    rows = [attempt(1, subscription_id=OTHER), attempt(2, "succeeded")]
    assert endpoints_seen(rows) == [Seen(ONE, at(2), None, None, None), Seen(OTHER, None, at(1), at(1), None)]


def test_the_last_410_is_told() -> None:
    rows = [attempt(3, http_status_code=410), attempt(9, http_status_code=500), attempt(1, http_status_code=410)]
    assert endpoints_seen(rows) == [Seen(ONE, None, at(9), at(1), at(3))]


@pytest.mark.parametrize(
    "row",
    [
        attempt(1, error_class="internal_error"),
        attempt(1, "permanently_failed", error_class="expired"),
        attempt(1, None, kind="waiting"),
        attempt(1, subscription_id=ONE.upper()),
        attempt(1, subscription_id="somebody's"),
        LogRow(),
    ],
)
def test_what_says_nothing_about_an_endpoint_of_ours_is_passed_over(row: LogRow) -> None:
    assert endpoints_seen([row]) == []


def test_a_lanes_state_becomes_a_row_and_a_foreign_one_is_unreadable_or_nobodys() -> None:
    state = LaneState("breaker", ONE.upper(), "acme", "open", slow=True, changed_ms=5, reason="a\0b", until_ms=9)
    row = row_of_lane(state, HERE)
    assert row is not None
    assert row.lane == (ONE, "open", True, "a\N{REPLACEMENT CHARACTER}b", at(5), at(9), 3, 7)
    assert row.day is None
    assert row_of_lane(replace(state, subscription_id="nobody"), HERE) is None
    for bad in ({"breaker": "ajar"}, {"slow": 1}, {"changed_ms": -1}, {"changed_ms": "1"}, {"subscription_id": 5}):
        with pytest.raises(UnreadableRecord):
            row_of_lane(replace(state, **bad), HERE)
