"""Which attempts disable a subscription, and what its tenant is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from delivery_stream.disabling import SUBSCRIPTION_DISABLED, Disabling, to_disable
from shared.attempt_records import Attempt
from shared.attempt_rows import AttemptValues, row_of_attempt
from shared.clock import to_datetime, to_rfc3339
from shared.endpoint_states import Failing
from shared.records import Source

HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000
ONE = "0192c0de-0000-7000-8000-000000000001"
HERE = Source("attempts", 0, 0)


def failing(since_ms: int = NOW_MS, changed_ms: int = 0, *, too_long: bool = False, **changes: Any) -> Failing:
    url = "https://user.example:8443/hooks/T0KEN?key=s3cret"
    made = Failing(ONE, "acme", url, "mine", 7, to_datetime(changed_ms), to_datetime(since_ms), too_long)
    return made._replace(**changes)


def attempt(at_ms: int, status: int | None = 503, subscription_id: str = ONE, **changes: Any) -> AttemptValues:
    outcome: Any = "succeeded" if status == 200 else "failed_attempt"
    made = Attempt("attempt", f"w{at_ms}", subscription_id, 1, 1, 0, at_ms, outcome=outcome, http_status_code=status)
    values = row_of_attempt(replace(made, **changes), HERE).attempt
    assert values is not None
    return values


def decided(found: Failing, *attempts: AttemptValues, now_ms: int = NOW_MS) -> list[Disabling]:
    return list(to_disable([found], attempts, after_hours=120, now_ms=now_ms))


def test_a_410_disables_at_once_and_the_first_one_is_the_cause() -> None:
    first, second = attempt(NOW_MS - 20, 410), attempt(NOW_MS - 10, 410)
    assert decided(failing(), second, first) == [Disabling(failing(), "gone", first)]


@pytest.mark.parametrize(
    "other",
    [
        attempt(NOW_MS - 10, 410, "0192c0de-0000-7000-8000-000000000002"),
        attempt(NOW_MS - 10, 200),
        attempt(NOW_MS - 2 * HOUR_MS, 410),
        attempt(NOW_MS + 2 * HOUR_MS, 410),
        attempt(NOW_MS - 50, 410),
        attempt(NOW_MS - 10, 503),
    ],
    ids=["of another one", "a success", "old", "of the future", "before the last change", "not long enough"],
)
def test_what_disables_nothing(other: AttemptValues) -> None:
    assert decided(failing(NOW_MS - 100, changed_ms=NOW_MS - 30), other) == []


def test_nothing_but_failures_for_long_enough_disables_and_the_first_that_is_late_is_the_cause() -> None:
    found = failing(NOW_MS - 120 * HOUR_MS - 1000, too_long=True)
    early, late, later = (attempt(NOW_MS - ago_ms) for ago_ms in (1001, 1000, 3))
    assert decided(found, later, early, late) == [Disabling(found, "failing", late)]
    assert decided(found, early) == [], "the one that was late enough is in another batch, and has decided there"
    assert decided(found, attempt(NOW_MS - 3, 410), late) == [Disabling(found, "gone", attempt(NOW_MS - 3, 410))]


def test_the_log_read_anew_disables_nothing_for_failures_of_long_ago() -> None:
    found = failing(NOW_MS - 300 * HOUR_MS, too_long=True)
    assert decided(found, attempt(NOW_MS - 170 * HOUR_MS), attempt(NOW_MS - 2 * HOUR_MS)) == []


def test_the_event_says_what_why_and_since_when_and_shows_no_path() -> None:
    cause = attempt(NOW_MS, 410, error_class="http_status")
    event = Disabling(failing(NOW_MS - 5), "gone", cause).event(NOW_MS + 7)
    assert (event.event_type, event.tenant, event.about) == (SUBSCRIPTION_DISABLED, "acme", ONE)
    assert (event.content_type, event.accepted_ms) == ("application/json", NOW_MS + 7)
    assert b"T0KEN" not in event.payload
    assert b"s3cret" not in event.payload
    assert orjson.loads(event.payload) == {
        "type": SUBSCRIPTION_DISABLED,
        "timestamp": to_rfc3339(NOW_MS + 7),
        "data": {
            "subscription_id": ONE,
            "description": "mine",
            "target_origin": "https://user.example:8443",
            "reason": "gone",
            "since": to_rfc3339(NOW_MS - 5),
            "disabled_at": to_rfc3339(NOW_MS + 7),
            "last_attempt": {
                "webhook_id": cause.webhook_id,
                "attempted_at": to_rfc3339(NOW_MS),
                "http_status_code": 410,
                "error_class": "http_status",
            },
        },
    }


def test_one_version_of_a_subscription_is_disabled_under_one_id_and_another_version_or_reason_under_another() -> None:
    cause = attempt(NOW_MS, 410)
    first, again = (Disabling(failing(), "gone", cause).event(NOW_MS + later) for later in (1, 999))
    assert first.id == again.id
    others = [
        Disabling(failing(version=8), "gone", cause),
        Disabling(failing(), "failing", cause),
        Disabling(failing(subscription_id="0192c0de-0000-7000-8000-000000000002"), "gone", cause),
    ]
    assert len({first.id, *(other.event(NOW_MS).id for other in others)}) == 4


def test_a_url_that_cannot_be_read_any_more_is_not_shown() -> None:
    event = Disabling(failing(target_url="ftp://old/secret"), "gone", attempt(NOW_MS, 410)).event(NOW_MS)
    assert orjson.loads(event.payload)["data"]["target_origin"] is None
