"""The attempt log in a real Postgres: what is written in any order, and what is answered."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from shared.attempt_log import AttemptLog
from shared.attempt_records import Alarm, Attempt
from shared.attempt_rows import LogRow, Progress, row_of_alarm, row_of_attempt, row_of_delivery
from shared.attempt_writer import AttemptWriter
from shared.clock import SystemClock, to_datetime, to_ms
from shared.database import Database
from shared.errors import StoreUnavailable, UnreadableRecord, ValuesRefused
from shared.record_ids import new_webhook_id
from shared.settings import Settings
from tests import log_rows
from tests.strategies import attempts as any_attempts


@pytest.fixture(scope="module")
def settings(fresh_settings: Any) -> Settings:
    made: Settings = fresh_settings()
    return made


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture(scope="module")
def writer(database: Database) -> AttemptWriter:
    return AttemptWriter(database)


@pytest.fixture(scope="module")
def attempt_log(database: Database, settings: Settings) -> AttemptLog:
    return AttemptLog(database, settings.topics)


def test_a_delivery_is_answered_with_its_attempts(writer: AttemptWriter, attempt_log: AttemptLog) -> None:
    delivery = log_rows.delivery()
    assert attempt_log.delivery(delivery.webhook_id) is None
    writer.write_batch([log_rows.queued(delivery)], [])
    queued = attempt_log.delivery(delivery.webhook_id)
    assert queued is not None
    assert (queued.status, queued.latest_attempt, queued.attempts) == ("queued", 0, ())
    assert (queued.tenant, queued.event_type) == ("acme", "order.created")
    assert to_ms(queued.accepted_at) == delivery.accepted_ms

    next_ms = delivery.accepted_ms + 11_000
    failure = {"http_status_code": 503, "error_class": "http_status", "error_details": "a\tb\\N\nc", "duration_ms": 1.5}
    wire = {"sent_bytes": 700, "received_bytes": 90, "response_body": "busy\t\\N"}
    failed = log_rows.tried(
        delivery, 1, next_attempt_ms=next_ms, timings_ms={"connect": 0.5}, address="::1", **failure, **wire
    )
    writer.write_batch([failed, log_rows.tried(delivery, 2, None, waits=1)], [])
    retrying = attempt_log.delivery(delivery.webhook_id)
    assert retrying is not None
    assert (retrying.status, retrying.latest_attempt, retrying.run) == ("retrying", 1, 1)
    [attempt] = retrying.attempts
    assert {name: getattr(attempt, name) for name in failure} == failure
    assert (attempt.timings_ms, attempt.address) == ({"connect": 0.5}, "::1")
    assert {name: getattr(attempt, name) for name in wire} == wire
    assert (attempt.attempt, attempt.next_attempt_at) == (1, to_datetime(next_ms))
    assert [note.kind for note in retrying.notes] == ["waiting"]

    writer.write_batch([log_rows.tried(delivery, 2, "succeeded", http_status_code=200)], [])
    done = attempt_log.delivery(delivery.webhook_id)
    assert done is not None
    assert (done.status, done.latest_attempt, done.source) == ("succeeded", 2, "deliveries:3:42")
    assert [one.outcome for one in done.attempts] == ["failed_attempt", "succeeded"]


@pytest.mark.parametrize(
    ("kind", "outcome", "number", "status", "latest"),
    [
        ("attempt", "permanently_failed", 3, "failed", 3),
        ("parked", None, 2, "paused", 1),
        ("cancelled", None, 1, "cancelled", 0),
        ("waiting", None, 1, "queued", 0),
        ("waiting", None, 2, "retrying", 1),
        ("resumed", None, 1, "queued", 0),
        ("resumed", None, 3, "retrying", 2),
    ],
)
def test_every_kind_leaves_its_status(
    writer: AttemptWriter, attempt_log: AttemptLog, kind: Any, outcome: Any, number: int, status: str, latest: int
) -> None:
    delivery = log_rows.delivery()
    writer.write_batch([log_rows.tried(delivery, number, outcome, kind=kind, reason="why")], [])
    found = attempt_log.delivery(delivery.webhook_id)
    assert found is not None
    assert (found.status, found.latest_attempt, found.reason) == (status, latest, "why")


def test_what_is_parked_is_queued_again_after_the_resume_and_never_once_it_was_tried(
    writer: AttemptWriter, attempt_log: AttemptLog
) -> None:
    delivery = log_rows.delivery()
    at_ms = delivery.accepted_ms
    parked = log_rows.tried(delivery, 1, None, kind="parked", attempted_ms=at_ms + 1)
    resumed = log_rows.tried(delivery, 1, None, kind="resumed", attempted_ms=at_ms + 2)
    parked_again = log_rows.tried(delivery, 1, None, kind="parked", attempted_ms=at_ms + 3)
    statuses = []
    for row in (parked, resumed, parked_again, log_rows.tried(delivery, 1, attempted_ms=at_ms + 1), resumed):
        writer.write_batch([row], [])
        found = attempt_log.delivery(delivery.webhook_id)
        assert found is not None
        statuses.append(found.status)
    assert statuses == ["paused", "queued", "paused", "retrying", "retrying"]


def test_a_late_record_of_a_lower_attempt_changes_nothing(writer: AttemptWriter, attempt_log: AttemptLog) -> None:
    delivery = log_rows.delivery()
    late = [log_rows.queued(delivery), log_rows.tried(delivery, 1), log_rows.tried(delivery, 2, None)]
    writer.write_batch([log_rows.tried(delivery, 3, "succeeded")], [])
    writer.write_batch(late, [])
    found = attempt_log.delivery(delivery.webhook_id)
    assert found is not None
    assert (found.status, found.latest_attempt) == ("succeeded", 3)


def test_a_higher_run_begins_again(writer: AttemptWriter, attempt_log: AttemptLog) -> None:
    delivery = log_rows.delivery()
    second = delivery.again(run=2)
    writer.write_batch([log_rows.tried(second, 1), log_rows.tried(delivery, 7, "permanently_failed")], [])
    writer.write_batch([log_rows.tried(delivery, 7, "succeeded")], [])
    found = attempt_log.delivery(delivery.webhook_id)
    assert found is not None
    assert (found.status, found.run, found.latest_attempt) == ("retrying", 2, 1)
    assert [(one.run, one.attempt) for one in found.attempts] == [(1, 7), (2, 1)]


def test_an_attempt_reported_twice_is_one_row_with_the_better_outcome(
    writer: AttemptWriter, attempt_log: AttemptLog
) -> None:
    delivery = log_rows.delivery()
    better, worse = log_rows.tried(delivery, 1, "succeeded"), log_rows.tried(delivery, 1, "failed_attempt")
    for batch in ([better, worse], [worse], [worse, better]):
        writer.write_batch(batch, [])
        found = attempt_log.delivery(delivery.webhook_id)
        assert found is not None
        assert [one.outcome for one in found.attempts] == ["succeeded"]
        assert found.status == "succeeded"


@st.composite
def histories(draw: st.DrawFn) -> list[LogRow]:
    """Records of two deliveries, repeats with other contents included."""
    accepted_ms = log_rows.now_ms()
    deliveries = [log_rows.delivery(accepted_ms=accepted_ms + n) for n in range(2)]
    rows = [log_rows.queued(delivery) for delivery in deliveries]
    outcomes = st.sampled_from(["succeeded", "failed_attempt", "permanently_failed", None])
    for _ in range(draw(st.integers(1, 12))):
        delivery = draw(st.sampled_from(deliveries)).again(run=draw(st.integers(1, 2)))
        outcome = draw(outcomes)
        kind = "attempt" if outcome else draw(st.sampled_from(["waiting", "parked", "resumed", "cancelled"]))
        changes = {
            "kind": kind,
            "waits": draw(st.integers(0, 2)),
            "attempted_ms": accepted_ms + draw(st.integers(0, 3)),
        }
        rows.append(log_rows.tried(delivery, draw(st.integers(1, 3)), outcome, **changes))
    return rows


@given(histories(), st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_repetition_of_batches_gives_the_same_log(
    database: Database, writer: AttemptWriter, rows: list[LogRow], order: random.Random
) -> None:
    ids = sorted({row.delivery.id for row in rows if row.delivery})
    writer.write_batch(rows, [])
    in_order = _contents(database, ids)
    with database.transaction() as connection:
        for table, column in (("deliveries", "id"), ("attempts", "webhook_id")):
            connection.execute(text(f"delete from {table} where {column} = any(:ids)"), {"ids": ids})
    shuffled = rows + order.sample(rows, order.randint(0, len(rows)))
    order.shuffle(shuffled)
    while shuffled:
        size = order.randint(1, len(shuffled))
        writer.write_batch(shuffled[:size], [])
        shuffled = shuffled[size:]
    assert _contents(database, ids) == in_order


def _contents(database: Database, ids: list[str]) -> list[Any]:
    found: list[Any] = []
    with database.transaction() as connection:
        for table, column in (("deliveries", "id"), ("attempts", "webhook_id")):
            query = text(f"select * from {table} where {column} = any(:ids) order by {column}, id")
            found.append([dict(row) for row in connection.execute(query, {"ids": ids}).mappings()])
    return found


@given(any_attempts())
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_attempt_is_stored_or_unreadable(writer: AttemptWriter, attempt: Attempt) -> None:
    """Whatever text and time it holds: Postgres is never asked for what it refuses."""
    try:
        row = row_of_attempt(attempt, log_rows.source())
    except UnreadableRecord:
        return
    writer.write_batch([row], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook_id": "a\0b"},
        {"webhook_id": "\ud800"},
        {"webhook_id": ""},
        {"webhook_id": "x" * 1025},
        {"subscription_id": 5},
        {"run": 2**40},
        {"attempt": 0},
        {"attempt": True},
        {"waits": -1},
        {"accepted_ms": 10**18},
        {"accepted_ms": -5},
        {"attempted_ms": 1.5},
        {"outcome": "odd"},
        {"outcome": None, "kind": "attempt"},
    ],
)
def test_an_attempt_that_cannot_be_a_row_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRecord):
        row_of_attempt(log_rows.attempt(log_rows.delivery(), 1, **changes), log_rows.source())


@pytest.mark.parametrize(
    "changes",
    [
        {"error_details": "NUL \0 and \ud800 and " + "x" * 5000},
        {"target_url": "u" * 100_000, "address": "\0", "event_type": "\\.\n", "source": "\\N"},
        {"http_status_code": 2**70, "duration_ms": -1.0, "next_attempt_ms": 10**30},
        {"http_status_code": "200", "timings_ms": {"a\0": 1, "b": "x", "c": 10**400, 5: 5}, "reason": 7},
        {"timings_ms": "no mapping", "duration_ms": True},
        {"accepted_ms": 253_402_300_799_999, "attempted_ms": 253_402_300_799_999},
        {"accepted_ms": 0, "attempted_ms": 0},
    ],
)
def test_odd_optional_values_are_cut_or_left_out(
    writer: AttemptWriter, attempt_log: AttemptLog, changes: dict[str, Any]
) -> None:
    delivery = log_rows.delivery()
    writer.write_batch([log_rows.tried(delivery, 1, "succeeded", **changes)], [])
    found = attempt_log.delivery(delivery.webhook_id)
    assert found is not None
    [attempt] = found.attempts
    assert attempt.error_details is None or len(attempt.error_details) <= 500


@pytest.mark.parametrize("unknown", ["", "nope", "a\0b", "\ud800", "x" * 5000, "ffffffff-ffff-7fff-bfff-ffffffffffff"])
def test_an_unknown_or_malformed_id_is_none(attempt_log: AttemptLog, unknown: str) -> None:
    assert attempt_log.delivery(unknown) is None
    assert attempt_log.attempts_of(unknown) == []


@pytest.mark.parametrize("foreign", ["order-17", "Ünï 'cødé'", "01960000-0000-7000-8000-000000000000"])
def test_an_id_of_another_producer_is_found_whatever_time_it_holds(
    writer: AttemptWriter, attempt_log: AttemptLog, foreign: str
) -> None:
    writer.write_batch([log_rows.queued(log_rows.delivery(webhook_id=foreign))], [])
    found = attempt_log.delivery(foreign)
    assert found is not None
    assert found.id == foreign


def test_the_newest_attempts_come_first_and_waits_are_none(writer: AttemptWriter, attempt_log: AttemptLog) -> None:
    subscription_id = new_webhook_id()
    delivery = log_rows.delivery(subscription_id=subscription_id, accepted_ms=log_rows.now_ms() + 600_000)
    rows = [log_rows.tried(delivery, number) for number in range(1, 6)]
    writer.write_batch([*rows, log_rows.tried(delivery, 6, None), log_rows.tried(log_rows.delivery(), 1)], [])
    assert [one.attempt for one in attempt_log.attempts_of(subscription_id, 3)] == [5, 4, 3]
    assert [one.attempt for one in attempt_log.attempts_of(subscription_id, 10**9)] == [5, 4, 3, 2, 1]
    assert attempt_log.attempts_of(subscription_id, -5) == []
    newest = attempt_log.newest(skip=0, limit=100)
    assert [one.attempted_at for one in newest] == sorted((one.attempted_at for one in newest), reverse=True)
    assert attempt_log.newest(skip=1, limit=2) == newest[1:3]


def test_only_attempts_of_the_first_run_that_never_waited_are_queued_rows() -> None:
    for changes in ({"run": 2}, {"attempt": 2}, {"waits": 1}):
        assert row_of_delivery(log_rows.delivery(**changes), log_rows.source()) is None


def test_the_watermark_is_the_least_of_all_partitions(
    writer: AttemptWriter, attempt_log: AttemptLog, settings: Settings
) -> None:
    topic, other = settings.topics.deliveries, settings.topics.attempts
    assert attempt_log.watermark_ms() == 0
    writer.register_partitions(topic, 3)
    writer.write_batch([], [Progress(topic, 0, 5, 1000), Progress(topic, 1, 5, 3000), Progress(other, 0, 1, 10)])
    assert attempt_log.watermark_ms() == 0
    writer.write_batch([], [Progress(topic, 2, 7, 2000), Progress(topic, 0, 6, None)])
    assert attempt_log.watermark_ms() == 1000
    writer.write_batch([], [Progress(topic, 0, 7, 4000)])
    assert attempt_log.watermark_ms() == 2000
    writer.write_batch([], [Progress(topic, 0, 2, 500)])
    writer.register_partitions(topic, 3)
    assert attempt_log.watermark_ms() == 2000


def test_the_watermark_of_a_sink_whose_clock_is_ahead_is_now(
    writer: AttemptWriter, attempt_log: AttemptLog, settings: Settings, database: Database
) -> None:
    topic, hour_ms = settings.topics.deliveries, 3_600_000
    with database.transaction() as connection:
        connection.execute(text("delete from sink_progress"))
    before_ms = SystemClock().now_ms()
    writer.write_batch([], [Progress(topic, 0, 5, before_ms + hour_ms)])
    assert before_ms <= attempt_log.watermark_ms() <= SystemClock().now_ms()
    with database.transaction() as connection:  # as an earlier version noted it
        connection.execute(text("update sink_progress set caught_up_to = now() + interval '1 hour'"))
    writer.write_batch([], [Progress(topic, 0, 6, before_ms)])
    assert attempt_log.watermark_ms() <= SystemClock().now_ms()


def test_an_alarm_is_kept_once_until_it_is_acknowledged(
    writer: AttemptWriter, attempt_log: AttemptLog, database: Database
) -> None:
    alarm = row_of_alarm(Alarm("records_skipped", "group", "deliveries:0:5", 5, 9, log_rows.now_ms()))
    writer.write_batch([alarm, alarm], [])
    writer.write_batch([alarm], [])
    assert [(one.kind, one.position) for one in attempt_log.alarms()] == [("records_skipped", 9)]
    with database.transaction() as connection:
        connection.execute(text("update alarms set acknowledged_at = now()"))
    assert attempt_log.alarms() == []


def test_a_batch_with_a_refused_row_leaves_nothing(
    writer: AttemptWriter, attempt_log: AttemptLog, settings: Settings
) -> None:
    good = log_rows.delivery()
    bad = log_rows.queued(log_rows.delivery())
    assert bad.delivery is not None
    broken = replace(bad, delivery=bad.delivery._replace(status="no such status"))
    with pytest.raises(ValuesRefused) as caught:
        writer.write_batch([log_rows.queued(good), broken], [Progress(settings.topics.attempts, 9, 1, 9)])
    assert "no such status" not in str(caught.value)
    assert attempt_log.delivery(good.webhook_id) is None


def test_a_schema_that_is_not_there_is_ours_and_not_the_rows(stack: Any) -> None:
    unmigrated = Database(stack.database_url)
    with pytest.raises(StoreUnavailable):
        AttemptWriter(unmigrated).write_batch([log_rows.queued(log_rows.delivery())], [])
    unmigrated.close()
