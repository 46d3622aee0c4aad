"""How endpoints do, in a real Postgres: written in any order and any number of times, the same row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from shared import outbox
from shared.attempt_records import Attempt, LaneState
from shared.attempt_rows import LogRow, row_of_attempt, row_of_lane
from shared.attempt_writer import AttemptWriter
from shared.clock import SystemClock, to_datetime, to_ms
from shared.database import Database
from shared.encryption import Cipher
from shared.endpoint_states import EndpointState, EndpointStates, forget_deleted
from shared.errors import StoreUnavailable
from shared.record_ids import new_webhook_id
from shared.records import Record, Source
from shared.settings import Settings
from shared.subscription_store import disable
from shared.subscriptions import NewSubscription, Subscription, SubscriptionStore
from tests.conftest import FreshSettings

_HOUR_MS = 3_600_000
_offsets = itertools.count()
_AFTER_S = 120 * 3600.0


@pytest.fixture(scope="module")
def settings(fresh_settings: FreshSettings) -> Settings:
    return fresh_settings()


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture(scope="module")
def store(settings: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))


@pytest.fixture(scope="module")
def writer(database: Database) -> AttemptWriter:
    return AttemptWriter(database, failing_for_s=_AFTER_S)


@pytest.fixture(scope="module")
def states(database: Database) -> EndpointStates:
    return EndpointStates(database)


def _made(store: SubscriptionStore) -> Subscription:
    return store.create(NewSubscription("https://example.com/hook", tenant="acme", description="mine")).subscription


def _attempt(subscription_id: str, at_ms: int, *, ok: bool = False, **changes: Any) -> LogRow:
    attempt = Attempt(
        kind="attempt",
        webhook_id=new_webhook_id(),
        subscription_id=subscription_id,
        run=1,
        attempt=1,
        accepted_ms=at_ms - 5,
        attempted_ms=at_ms,
        outcome="succeeded" if ok else "failed_attempt",
        http_status_code=200 if ok else 503,
        error_class=None if ok else "http_status",
    )
    return row_of_attempt(replace(attempt, **changes), Source("attempts", 0, next(_offsets)))


def _lane(subscription_id: str, at_ms: int, breaker: Any, offset: int | None = None, **changes: Any) -> LogRow:
    state = LaneState("breaker", subscription_id, "acme", breaker, slow=False, changed_ms=at_ms)
    place = Source("attempts", 0, next(_offsets) if offset is None else offset)
    row = row_of_lane(replace(state, **changes), place)
    assert row is not None
    return row


class Times(NamedTuple):
    failing_since: int | None
    last_success: int | None
    last_failure: int | None


def _expected(attempts: Sequence[tuple[int, bool]]) -> Times:
    successes = [at for at, ok in attempts if ok]
    failures = [at for at, ok in attempts if not ok]
    last_success = max(successes, default=None)
    since = min((at for at in failures if last_success is None or at > last_success), default=None)
    return Times(since, last_success, max(failures, default=None))


def _stored(state: EndpointState, start_ms: int) -> Times:
    times = (state.failing_since, state.last_success_at, state.last_failure_at)
    return Times(*(None if at is None else to_ms(at) - start_ms for at in times))


@given(st.data(), st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=10))
@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_in_any_order_any_batches_and_any_repetition_the_row_is_the_same(
    store: SubscriptionStore, writer: AttemptWriter, states: EndpointStates, data: Any, made: list[tuple[int, bool]]
) -> None:
    subscription_id, start_ms = _made(store).id, SystemClock().now_ms()
    rows = [_attempt(subscription_id, start_ms + at, ok=ok) for at, ok in made]
    lanes = [_lane(subscription_id, start_ms + at, "open" if ok else "closed") for at, ok in made]
    sent = data.draw(st.permutations([*rows, *lanes, *data.draw(st.lists(st.sampled_from(rows + lanes), max_size=6))]))
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        writer.write_batch(sent[:size], [])
        sent = sent[size:]
    [state] = states.of([subscription_id]).values()
    assert _stored(state, start_ms) == _expected(made)
    last = max((row.lane for row in lanes if row.lane), key=lambda lane: (lane.changed_at, lane.log_offset))
    assert (state.breaker, state.changed_at and to_ms(state.changed_at) - start_ms) == (
        last.breaker,
        max(at for at, _ok in made),
    )


def test_the_lanes_word_is_kept_whole_and_a_quiet_one_is_closed(
    store: SubscriptionStore, writer: AttemptWriter, states: EndpointStates
) -> None:
    one, now_ms = _made(store).id, SystemClock().now_ms()
    assert states.of([one]) == {}
    writer.write_batch([_attempt(one, now_ms, ok=True)], [])
    quiet = states.of([one])[one]
    assert (quiet.breaker, quiet.slow, quiet.reason, quiet.changed_at, quiet.open_until) == (
        "closed",
        False,
        None,
        None,
        None,
    )
    said: dict[str, Any] = {"slow": True, "reason": 'a "quoted" {reason}, NULL\\', "until_ms": now_ms + 500}
    writer.write_batch([_lane(one, now_ms + 1, "open", **said)], [])
    state = states.of([one])[one]
    assert (state.breaker, state.slow, state.reason) == ("open", True, said["reason"])
    assert (state.changed_at, state.open_until) == (to_datetime(now_ms + 1), to_datetime(now_ms + 500))
    assert state.last_success_at == to_datetime(now_ms)


def test_what_says_nothing_about_an_endpoint_changes_nothing(
    store: SubscriptionStore, writer: AttemptWriter, states: EndpointStates
) -> None:
    """Our own faults, what was too old to be sent, waits, ids of nobody: none is a failure of an endpoint."""
    one, now_ms = _made(store).id, SystemClock().now_ms()
    stranger, written_otherwise = str(uuid4()), one.upper()
    rows = [
        _attempt(one, now_ms, error_class="internal_error", http_status_code=None),
        _attempt(one, now_ms, error_class="expired", outcome="permanently_failed"),
        _attempt(one, now_ms, kind="waiting", outcome=None),
        _attempt(one, now_ms, kind="parked", outcome=None),
        *(_attempt(text_id, now_ms) for text_id in (stranger, written_otherwise, "no uuid")),
        _lane(stranger, now_ms, "open"),
    ]
    assert writer.write_batch(rows, []) == []
    assert states.of([one, stranger]) == {}


def test_rows_go_with_their_subscription_and_do_not_come_back(
    store: SubscriptionStore, writer: AttemptWriter, states: EndpointStates, database: Database
) -> None:
    one, now_ms = _made(store).id, SystemClock().now_ms()
    writer.write_batch([_attempt(one, now_ms), _lane(one, now_ms, "open")], [])
    assert states.of([one])
    store.delete(one)
    assert states.of([one]) == {}
    writer.write_batch([_attempt(one, now_ms + 1), _lane(one, now_ms + 1, "open")], [])
    assert states.of([one]) == {}
    with database.transaction() as connection:
        connection.execute(text("insert into endpoint_states (subscription_id) values (:id)"), {"id": one})
    assert forget_deleted(database) == 1
    assert states.of([one]) == {}


def _changed(database: Database, subscription: Subscription, at_ms: int) -> None:
    """As if its last change had been then."""
    with database.transaction() as connection:
        connection.execute(
            text("update subscriptions set updated_at = :at where id = :id"),
            {"at": to_datetime(at_ms), "id": subscription.id},
        )


def test_a_gone_endpoint_is_told_of_only_for_a_later_attempt_and_an_active_subscription(
    store: SubscriptionStore, writer: AttemptWriter
) -> None:
    one = _made(store)
    made_ms = to_ms(one.updated_at)
    gone: dict[str, Any] = {"http_status_code": 410, "outcome": "permanently_failed", "reason": "gone"}
    assert writer.write_batch([_attempt(one.id, made_ms - 1, **gone)], []) == []
    later = _attempt(one.id, made_ms + 1, **gone)
    [told] = writer.write_batch([later], [])
    assert (told.subscription_id, told.tenant, told.target_url, told.description) == (
        one.id,
        "acme",
        "https://example.com/hook",
        "mine",
    )
    assert (told.version, told.updated_at, told.too_long) == (one.version, one.updated_at, False)
    assert [one.subscription_id for one in writer.write_batch([later], [])] == [one.id], "a crash repeats it"
    store.set_status(one.id, "paused")
    assert writer.write_batch([_attempt(one.id, made_ms + 60_000, **gone)], []) == []


@pytest.mark.parametrize(("hours", "told"), [(119.9, False), (120.0, True), (300.0, True)])
def test_nothing_but_failures_for_so_long_is_told_of(
    store: SubscriptionStore, writer: AttemptWriter, database: Database, hours: float, told: bool
) -> None:
    one = _made(store)
    start_ms = SystemClock().now_ms() - int(hours * _HOUR_MS)
    _changed(database, one, start_ms - 5 * _HOUR_MS)
    writer.write_batch([_attempt(one.id, start_ms - 1, ok=True)], [])
    assert writer.write_batch([_attempt(one.id, start_ms)], []) == []
    found = writer.write_batch([_attempt(one.id, start_ms + int(hours * _HOUR_MS))], [])
    assert [(one.failing_since, one.too_long) for one in found] == ([(to_datetime(start_ms), True)] if told else [])


def test_a_last_success_nobody_knows_counts_from_the_first_failure(
    store: SubscriptionStore, writer: AttemptWriter, database: Database
) -> None:
    one, now_ms = _made(store), SystemClock().now_ms()
    _changed(database, one, now_ms - 1000 * _HOUR_MS)
    assert writer.write_batch([_attempt(one.id, now_ms - 119 * _HOUR_MS)], []) == []
    assert writer.write_batch([_attempt(one.id, now_ms)], []) == []
    assert len(writer.write_batch([_attempt(one.id, now_ms + _HOUR_MS)], [])) == 1


def test_one_success_starts_the_count_again_and_so_does_a_change_of_the_subscription(
    store: SubscriptionStore, writer: AttemptWriter, database: Database
) -> None:
    one, now_ms = _made(store), SystemClock().now_ms()
    _changed(database, one, now_ms - 1000 * _HOUR_MS)
    ago = [200, 150, 10]
    rows = [_attempt(one.id, now_ms - hours * _HOUR_MS) for hours in ago]
    assert [found.too_long for found in writer.write_batch(rows, [])] == [True]
    assert writer.write_batch([_attempt(one.id, now_ms - 100 * _HOUR_MS, ok=True), *rows], []) == []

    other = _made(store)
    _changed(database, other, now_ms - 60 * _HOUR_MS)
    assert writer.write_batch([_attempt(other.id, now_ms - hours * _HOUR_MS) for hours in ago], []) == []
    assert len(writer.write_batch([_attempt(other.id, now_ms + 60 * _HOUR_MS)], [])) == 1


def _telling(disabled_ms: int) -> list[Record]:
    return [Record("events", b"disabled", str(disabled_ms).encode(), [])]


def test_disabling_is_done_once_and_only_to_what_was_looked_at(
    store: SubscriptionStore, writer: AttemptWriter, states: EndpointStates, database: Database
) -> None:
    one = _made(store)
    assert not disable(database, one.id, one.version - 1, "gone", _telling)
    assert not disable(database, "no uuid", one.version, "gone", _telling)
    assert disable(database, one.id, one.version, "gone", _telling)
    assert not disable(database, one.id, one.version, "failing", _telling)
    after = store.get(one.id)
    assert after is not None
    assert (after.status, after.signing_keys, after.version > one.version) == ("disabled", one.signing_keys, True)
    state = states.of([one.id])[one.id]
    assert (state.disabled_reason, state.disabled_at) == ("gone", after.updated_at)
    [change] = store.changed_since(one.version, 10)[-1:]
    assert (change.id, change.sealed is not None and change.sealed.status) == (one.id, "disabled")
    resumed = store.set_status(one.id, "active")
    assert resumed is not None
    assert disable(database, one.id, resumed.version, "failing", _telling)
    again = states.of([one.id])[one.id]
    assert again.disabled_reason == "failing"
    assert again.disabled_at is not None
    told = [claimed.record for claimed in outbox.claim(database)]
    assert told == _telling(to_ms(after.updated_at)) + _telling(to_ms(again.disabled_at))
    assert writer.write_batch([_attempt(one.id, SystemClock().now_ms() + 1000, http_status_code=410)], []) == []


def test_postgres_out_of_reach_is_store_unavailable() -> None:
    away = Database("postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(StoreUnavailable):
        EndpointStates(away).of([str(uuid4())])
    with pytest.raises(StoreUnavailable):
        disable(away, str(uuid4()), 1, "gone", _telling)
