"""What is parked and who brings it back, in a real Postgres: nothing is left behind, and nothing is in two places."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from retry_scheduler.replay_job import Cursor, Job
from retry_scheduler.replay_rows import ReplayRows
from shared.database import Database
from shared.encryption import Cipher
from shared.parking import Span
from shared.records import Source
from shared.settings import Settings
from shared.subscriptions import NewSubscription, Status, SubscriptionStore

TOPIC = "w.parked"
UNKNOWN = "0193c6f0-0000-7000-8000-000000000001"
LATER = timedelta(seconds=0)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value(), pool_size=10)
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))


@pytest.fixture
def rows(database: Database) -> ReplayRows:
    return ReplayRows(database)


def subscribe(store: SubscriptionStore, status: Status = "active", **fields: float) -> str:
    new = NewSubscription("https://example.com/", rate_limit=fields.get("rate_limit"))
    subscription_id = store.create(new).subscription.id
    store.set_status(subscription_id, status)
    return subscription_id


def span(first: int, last: int, *, records: int | None = None, partition: int = 0) -> Span:
    return Span(partition, first, last + 1, last + 1 - first if records is None else records)


def settle(database: Database) -> None:
    """As if every process had heard of the resume."""
    with database.transaction() as connection:
        waiting = "select id from replays where not_before > now() for update skip locked"
        connection.execute(text(f"update replays set not_before = now() - interval '1 s' where id in ({waiting})"))


def jobs(database: Database) -> list[tuple[str, int, int]]:
    with database.transaction() as connection:
        found = connection.execute(text("select state, records, published from replays order by created_at"))
        return [(row.state, row.records, row.published) for row in found]


def ranges(database: Database) -> list[tuple[int, int, int]]:
    with database.transaction() as connection:
        found = connection.execute(
            text("select partition, from_offset, to_offset from replay_ranges order by partition, from_offset")
        )
        return [(row.partition, row.from_offset, row.to_offset) for row in found]


def claimed(rows: ReplayRows) -> Job:
    job = rows.claim()
    assert job is not None
    return job


@pytest.mark.parametrize("status", ["paused", "disabled"])
def test_what_is_parked_waits_for_the_resume_and_is_a_job_then(
    database: Database, store: SubscriptionStore, rows: ReplayRows, status: Status
) -> None:
    one = subscribe(store, status, rate_limit=5.0)
    rows.note(TOPIC, {one: [span(3, 9, records=4)]})
    rows.note(TOPIC, {one: [span(12, 12), span(0, 1, partition=2)]})
    assert store.parked([one]) == {one: 7}
    assert rows.still_needed() == {(TOPIC, 0): 3, (TOPIC, 2): 0}
    assert (jobs(database), rows.claim()) == ([], None)

    store.set_status(one, "active")

    assert jobs(database) == [("running", 7, 0)]
    assert ranges(database) == [(0, 3, 13), (2, 0, 2)]
    assert store.parked([one]) == {one: 7}
    assert rows.claim() is None, "a moment for everybody to hear of the resume"
    settle(database)
    job = claimed(rows)
    assert (job.kind, job.topic, job.tenant, job.subscription_id) == ("resume", TOPIC, "default", one)
    assert (job.cursor, job.rate, job.deleted) == (Cursor(0, 3, 3, 13), 5.0, False)


def test_noting_twice_changes_nothing(database: Database, store: SubscriptionStore, rows: ReplayRows) -> None:
    one = subscribe(store, "paused")
    for noted in (span(0, 9), span(10, 19), span(10, 19), span(0, 9)):
        rows.note(TOPIC, {one: [noted]})
    assert store.parked([one]) == {one: 20}
    store.set_status(one, "active")
    assert ranges(database) == [(0, 0, 20)]


def test_what_comes_for_an_active_subscription_is_a_job_by_itself(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    """A stream worker that had not heard of the resume parked it."""
    one = subscribe(store)
    assert rows.note(TOPIC, {one: [span(0, 4)], UNKNOWN: [span(5, 5)]}) == {UNKNOWN}
    rows.note(TOPIC, {one: [span(6, 9)]})
    assert jobs(database) == [("running", 9, 0)], "one that has not begun takes more"
    settle(database)
    claimed(rows)
    rows.note(TOPIC, {one: [span(20, 20)]})
    rows.note(TOPIC, {one: [span(22, 22)]})
    assert jobs(database) == [("running", 9, 0), ("running", 2, 0)], "one that has begun is what it is"
    settle(database)
    assert rows.claim() is None, "the second goes after the first"


def test_the_cursor_moves_with_what_is_published_and_at_the_end_the_job_is_done(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    one = subscribe(store, "paused")
    rows.note(TOPIC, {one: [span(0, 9), span(5, 6, partition=1)]})
    store.set_status(one, "active")
    settle(database)
    job = claimed(rows)
    assert rows.claim() is None, "it is ours for the time of the lease"
    assert rows.advance(job, 4, 4, Source("w.deliveries", 3, 99))
    assert store.parked([one]) == {one: 8}
    assert rows.still_needed() == {(TOPIC, 0): 4, (TOPIC, 1): 5}
    job = claimed(rows)
    assert (job.cursor, job.last_partition, job.last_offset) == (Cursor(0, 0, 4, 10), 3, 99)
    assert rows.advance(job, 10, 6, None)
    job = claimed(rows)
    assert job.cursor == Cursor(1, 5, 5, 7)
    assert rows.advance(job, 7, 2, None)
    assert jobs(database) == [("done", 12, 12)]
    assert (rows.claim(), store.parked([one]), rows.still_needed()) == (None, {}, {})
    assert rows.forget_old() == 0
    with database.transaction() as connection:
        connection.execute(text("update replays set finished_at = now() - interval '31 days'"))
    assert rows.forget_old() == 1
    assert ranges(database) == []


def test_a_step_that_took_too_long_changes_nothing_any_more(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    one = subscribe(store, "paused")
    rows.note(TOPIC, {one: [span(0, 9)]})
    store.set_status(one, "active")
    settle(database)
    slow = claimed(rows)
    with database.transaction() as connection:
        connection.execute(text("update replays set next_step_at = now()"))  # the lease runs out
    quick = claimed(rows)
    assert rows.advance(quick, 6, 6, None)
    assert not rows.advance(slow, 3, 3, None)
    assert jobs(database) == [("running", 10, 6)]
    assert claimed(rows).cursor == Cursor(0, 0, 6, 10)


def test_pausing_again_holds_the_job_and_a_step_under_way_is_kept(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    one = subscribe(store, "paused")
    rows.note(TOPIC, {one: [span(0, 9)]})
    store.set_status(one, "active")
    settle(database)
    job = claimed(rows)
    store.set_status(one, "paused")
    assert rows.advance(job, 4, 4, None)
    rows.note(TOPIC, {one: [span(10, 11)]})
    settle(database)
    assert (rows.claim(), jobs(database)) == (None, [("held", 10, 4)])
    assert store.parked([one]) == {one: 8}
    store.set_status(one, "active")
    assert jobs(database) == [("running", 10, 4), ("running", 2, 0)]
    assert rows.claim() is None, "everybody has to hear of this resume, too"
    settle(database)
    assert rows.advance(claimed(rows), 10, 6, None)
    assert claimed(rows).cursor == Cursor(0, 10, 10, 12)


def test_however_often_it_is_paused_two_jobs_are_open_at_most(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    one = subscribe(store, "paused")
    rows.note(TOPIC, {one: [span(0, 9)]})
    store.set_status(one, "active")
    settle(database)
    claimed(rows)
    for offset in range(10, 20):
        store.set_status(one, "paused")
        rows.note(TOPIC, {one: [span(offset, offset)]})
        store.set_status(one, "active")
    assert jobs(database) == [("running", 10, 0), ("running", 10, 0)]


def test_a_deleted_subscription_gets_its_job_to_be_cancelled_and_without_a_rate(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    one = subscribe(store, "paused", rate_limit=0.1)
    rows.note(TOPIC, {one: [span(0, 9)]})
    store.delete(one)
    rows.note(TOPIC, {one: [span(10, 10)]})
    settle(database)
    job = claimed(rows)
    assert (job.deleted, job.rate) == (True, None)
    with database.transaction() as connection:
        assert connection.execute(text("select distinct reason from replays")).scalar_one() == "subscription deleted"
    assert jobs(database) == [("running", 11, 0)]


def test_jobs_take_turns(database: Database, store: SubscriptionStore, rows: ReplayRows) -> None:
    """No job keeps another from its step, and two schedulers never have the same one."""
    subscriptions = [subscribe(store, "paused") for _ in range(4)]
    for number, one in enumerate(subscriptions):
        rows.note(TOPIC, {one: [span(100 * number, 100 * number + 9)]})
        store.set_status(one, "active")
    settle(database)
    turns = []
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            going = [job for job in threads.map(lambda _n: rows.claim(), range(6)) if job]
        turns += [job.subscription_id for job in going]
        assert len({job.id for job in going}) == len(going)
        for job in going:
            rows.release(job, LATER)
    assert set(turns) == set(subscriptions)


def test_racing_resumes_and_notes_leave_every_record_in_exactly_one_place(
    database: Database, store: SubscriptionStore, rows: ReplayRows
) -> None:
    """Two partitions are noted, and jobs run, while the subscriptions are paused, resumed and deleted."""
    owners = [subscribe(store) for _ in range(3)]
    stop, seed = threading.Event(), random.randrange(2**32)

    def note_all(partition: int) -> set[tuple[str, int, int]]:
        choose, offset, noted = random.Random(seed + partition), 0, set()
        while not stop.is_set():
            batch = {}
            for owner in choose.sample(owners, 2):
                length = choose.randint(1, 5)
                batch[owner] = [span(offset, offset + length - 1, partition=partition)]
                noted |= {(owner, partition, n) for n in range(offset, offset + length)}
                offset += length
            assert rows.note(TOPIC, batch) == set()
        return noted

    def run_jobs() -> None:
        while not stop.is_set():
            settle(database)
            job = rows.claim()
            if job and job.cursor:
                end = job.cursor.to_offset
                rows.advance(job, end, end - job.cursor.next_offset, None)

    def toggle(owner: str) -> None:
        for _ in range(15):
            store.set_status(owner, "paused")
            store.set_status(owner, "active")

    with ThreadPoolExecutor(6) as threads:
        noting = [threads.submit(note_all, partition) for partition in range(2)]
        running = threads.submit(run_jobs)
        toggling = [threads.submit(toggle, owner) for owner in owners]
        try:
            for one in toggling:
                one.result()
            store.set_status(owners[0], "paused")
            store.delete(owners[1])
        finally:
            stop.set()
        running.result()
        noted = set().union(*(one.result() for one in noting))
    query = (
        "select subscription_id, partition, from_offset, to_offset from parked union all"
        " select subscription_id, partition, from_offset, to_offset from replay_ranges join replays on id = replay_id"
    )
    places: Counter[tuple[str, int, int]] = Counter()
    with database.transaction() as connection:
        for row in connection.execute(text(query)):
            here = str(row.subscription_id), row.partition
            places.update((*here, n) for n in range(row.from_offset, row.to_offset))
        kept = connection.execute(text("select distinct subscription_id from parked")).scalars()
        assert {str(one) for one in kept} <= {owners[0]}, f"left behind, seed {seed}"
    assert len(noted) > 100
    assert {one: places[one] for one in noted if places[one] != 1} == {}, f"seed {seed}"
