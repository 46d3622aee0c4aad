"""What is parked and comes back, on a real broker and a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata
from pydantic import SecretStr
from sqlalchemy import text

from retry_scheduler.janitor import NOTING
from retry_scheduler.parked_tail import ParkedTail
from retry_scheduler.replay import Replays
from retry_scheduler.replay_job import FIRST_RECORDS
from retry_scheduler.replay_rows import ReplayRows
from shared.attempt_records import Alarm, Attempt, attempt_from_json
from shared.clock import SystemClock
from shared.completed_offsets import encode_completed
from shared.database import Database
from shared.encryption import Cipher
from shared.kafka import Producer, client_options
from shared.records import Delivery, Record, delivery_from_record
from shared.settings import Settings
from shared.store_calls import StoreCalls
from shared.subscriptions import NewSubscription, SubscriptionStore
from shared.topics import home_partition
from tests import eventually as waiting
from tests.group_commits import committing
from tests.system import read_topic
from tests.tcp_proxy import TcpProxy

NOW_MS = SystemClock().now_ms
#: A broker that has just made topics takes its time.
eventually = partial(waiting.eventually, within_s=30)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url.get_secret_value())
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database, Cipher(settings.encryption_key.get_secret_value()))


@pytest.fixture
async def producer(topics_ready: Settings) -> AsyncIterator[Producer]:
    made = Producer(topics_ready)
    await made.start()
    yield made
    await made.stop()


class Parts(NamedTuple):
    tail: ParkedTail
    replays: Replays


@asynccontextmanager
async def scheduling(settings: Settings, producer: Producer, *, stream: bool = True) -> AsyncIterator[Parts]:
    """The parts of a scheduler that this is about, in this loop; it has left its group afterwards.

    With a ``stream`` whatever comes into `deliveries` is done at once.
    """
    database, calls, stop = Database(settings.database_url.get_secret_value()), StoreCalls("test"), asyncio.Event()
    rows = ReplayRows(database)
    tail, replays = ParkedTail(settings, producer, rows, calls), Replays(settings, producer, rows, calls)
    running = [asyncio.ensure_future(part.run(stop)) for part in (tail, replays)]
    doing = asyncio.ensure_future(do_everything(settings)) if stream else None
    try:
        yield Parts(tail, replays)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*running)
        if doing:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        calls.close()
        database.close()


def subscribe(store: SubscriptionStore, status: str = "paused", rate_limit: float | None = None) -> str:
    one = store.create(NewSubscription("https://example.com/", rate_limit=rate_limit)).subscription.id
    if status == "paused":
        store.set_status(one, "paused")
    return one


async def park(
    settings: Settings, producer: Producer, owners: Sequence[str], count: int, first: int = 0
) -> list[Delivery]:
    """Records of these subscriptions in turn, all in one partition."""
    deliveries = [
        Delivery(f"id-{n}", owners[n % len(owners)], b"%d" % n, NOW_MS() - 5_000, attempt=1 + n % 3)
        for n in range(first, first + count)
    ]
    parked = settings.topics.parked
    await producer.send_all([Record(parked, b"k", one.payload, one.headers(), 0) for one in deliveries])
    return deliveries


async def deliveries_of(settings: Settings, owner: str, count: int, within_s: float = 30) -> list[ConsumerRecord]:
    """What has come back of a subscription, once it is so many; in the order of its partition."""
    found: list[ConsumerRecord] = []

    async def enough() -> bool:
        nonlocal found
        records = await read_topic(settings, settings.topics.deliveries)
        found = [record for record in records if record.key == owner.encode()]
        return len(found) >= count

    await eventually(enough, within_s=within_s)
    return found


async def stream_has_done(settings: Settings, partition: int, next_offset: int, completed: Sequence[int] = ()) -> None:
    """As the delivery stream would commit it."""
    here = TopicPartition(settings.topics.deliveries, partition)
    runs = [range(offset, offset + 1) for offset in completed]
    async with committing(settings, "delivery-stream", [here]) as consumer:
        await consumer.commit({here: OffsetAndMetadata(next_offset, encode_completed(next_offset, runs))})


async def do_everything(settings: Settings) -> None:
    """As a delivery stream that has finished whatever is there."""
    partitions = [TopicPartition(settings.topics.deliveries, number) for number in range(settings.partitions)]
    async with committing(settings, "delivery-stream", partitions) as consumer:
        while True:
            await consumer.commit(await consumer.end_offsets(partitions))
            await asyncio.sleep(0.1)


async def test_a_commit_of_the_tail_without_an_answer_is_told_of_and_made_good_without_another_record(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, one = topics_ready, subscribe(store)
    async with scheduling(settings, producer) as (tail, _):
        await eventually(lambda: hasattr(tail, "_consumer") and tail._consumer.assignment())
        with monkeypatch.context() as patched:
            patched.setattr(tail._consumer, "commit", lambda _offsets: asyncio.Event().wait())
            await park(settings, producer, [one], 3)
            await eventually(lambda: "commit" in tail.troubles().get("parked", ""))
        await eventually(lambda: not tail.troubles())
    here = TopicPartition(settings.topics.parked, 0)
    async with committing(settings, NOTING, [here]) as consumer:
        assert await consumer.committed(here) == 3


async def test_what_was_parked_comes_back_in_its_order_and_nobody_elses(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    settings, (one, other) = topics_ready, (subscribe(store), subscribe(store))
    async with scheduling(settings, producer):
        parked = await park(settings, producer, [one, other], 100)
        await eventually(lambda: store.parked([one, other]) == {one: 50, other: 50})
        store.set_status(one, "active")
        came = await deliveries_of(settings, one, 50)
        await eventually(lambda: store.parked([one, other]) == {other: 50})

    assert [record.value for record in came] == [d.payload for d in parked if d.subscription_id == one]
    for record in came:
        delivery = delivery_from_record(("t", 0, 0), record.value, record.headers, 0)  # type: ignore[arg-type]
        [before] = [d for d in parked if d.webhook_id == delivery.webhook_id]
        assert delivery == before.again(paused_ms=delivery.paused_ms)
        assert 0 < delivery.paused_ms < 60_000
    records = await read_topic(settings, settings.topics.deliveries)
    assert {record.key for record in records} == {one.encode()}
    resumed = [attempt_from_json(record.value) for record in await read_topic(settings, settings.topics.attempts)]
    assert {(a.kind, a.webhook_id, a.attempt) for a in resumed if isinstance(a, Attempt)} == {
        ("resumed", d.webhook_id, d.attempt) for d in parked if d.subscription_id == one
    }
    places = {f"{record.topic}:{record.partition}:{record.offset}" for record in came}
    assert {a.source for a in resumed if isinstance(a, Attempt)} == places
    rows = ReplayRows(database)
    assert rows.still_needed() == {(settings.topics.parked, 0): 1}, "the janitor keeps the other's"


async def test_a_job_goes_on_when_the_stream_has_done_what_it_published(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    """Neither a deep backlog nor a slow endpoint fills `deliveries`; a stuck neighbour holds nothing up."""
    settings, one = topics_ready, subscribe(store)
    home, deep = home_partition(one, settings.partitions), 600
    neighbour = next(n for n in map(str, range(100)) if home_partition(n, settings.partitions) == home)
    stuck = await producer.send(Delivery("stuck", neighbour, b"stuck", NOW_MS()).to_record(settings.topics.deliveries))
    async with scheduling(settings, producer, stream=False):
        await park(settings, producer, [one], deep)
        await eventually(lambda: store.parked([one]) == {one: deep})
        store.set_status(one, "active")
        published = 0
        while published < deep:
            came = await _a_whole_step(settings, store, one, deep, more_than=published)
            published = len(came)
            # The neighbour holds the watermark, all the others are done: that is how the stream commits it.
            await stream_has_done(settings, home, stuck.offset, [record.offset for record in came])
    assert [record.value for record in came] == [b"%d" % n for n in range(deep)]


async def test_a_job_keeps_to_the_rate_of_its_subscription(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    settings, rate = topics_ready, 4.0
    one = subscribe(store, rate_limit=rate)
    async with scheduling(settings, producer):
        await park(settings, producer, [one], 20)
        await eventually(lambda: store.parked([one]) == {one: 20})
        store.set_status(one, "active")
        came = await deliveries_of(settings, one, 20)
    times_ms = [record.timestamp for record in came]
    for n, at_ms in enumerate(times_ms):
        assert n <= rate * (at_ms - times_ms[0]) / 1000 + 2 * rate + 1, "rate x time, and two seconds' worth"


async def test_a_pause_in_the_middle_holds_the_rest_and_the_next_resume_brings_it(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    settings, one = topics_ready, subscribe(store)
    async with scheduling(settings, producer, stream=False):
        await park(settings, producer, [one], 50)
        await eventually(lambda: store.parked([one]) == {one: 50})
        store.set_status(one, "active")
        await deliveries_of(settings, one, FIRST_RECORDS)
        store.set_status(one, "paused")
        await eventually(lambda: store.parked([one]) == {one: 50 - FIRST_RECORDS})
    async with scheduling(settings, producer):  # its stream has done what was published
        await park(settings, producer, [one], 7, first=50)
        # Another job, made later, runs: this one would have gone on meanwhile.
        other = subscribe(store)
        await park(settings, producer, [other], 1, first=9_000)
        await eventually(lambda: store.parked([one, other]) == {one: 57 - FIRST_RECORDS, other: 1})
        store.set_status(other, "active")
        await deliveries_of(settings, other, 1)
        assert store.parked([one]) == {one: 57 - FIRST_RECORDS}
        store.set_status(one, "active")
        came = await deliveries_of(settings, one, 57)
    assert [record.value for record in came] == [b"%d" % n for n in range(57)]


async def test_a_scheduler_that_starts_anew_goes_on_from_the_cursor(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    settings, one = topics_ready, subscribe(store)
    async with scheduling(settings, producer, stream=False):
        await park(settings, producer, [one], 50)
        await eventually(lambda: store.parked([one]) == {one: 50})
        store.set_status(one, "active")
        await eventually(lambda: store.parked([one]) == {one: 50 - FIRST_RECORDS})
    async with scheduling(settings, producer):
        came = await deliveries_of(settings, one, 50)
    assert [record.value for record in came] == [b"%d" % n for n in range(50)]


async def test_two_schedulers_share_the_jobs_and_repeat_nothing(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    settings, owners = topics_ready, [subscribe(store) for _ in range(6)]
    async with scheduling(settings, producer) as first, scheduling(settings, producer) as second:
        await park(settings, producer, owners, 300)
        await eventually(lambda: store.parked(owners) == dict.fromkeys(owners, 50))
        for one in owners:
            store.set_status(one, "active")
        for one in owners:
            assert len(await deliveries_of(settings, one, 50)) == 50
        await eventually(lambda: store.parked(owners) == {})
        assert first.replays.published + second.replays.published == 300
    assert len(await read_topic(settings, settings.topics.deliveries)) == 300


async def test_what_nobody_knows_goes_on_at_once_and_what_cannot_be_read_is_dead_lettered(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    settings, paused = topics_ready, subscribe(store)
    parked = settings.topics.parked
    unknown = "0193c6f0-0000-7000-8000-000000000001"
    nowhere = [Delivery(f"id-{owner}", owner, b"x", NOW_MS()) for owner in (unknown, "no-uuid")]
    async with scheduling(settings, producer):
        await producer.send_all([Record(parked, b"k", one.payload, one.headers(), 0) for one in nowhere])
        await producer.send(Record(parked, b"k", b"foreign", [("x", b"y")], 0))
        await park(settings, producer, [paused], 1)
        await eventually(lambda: store.parked([paused]) == {paused: 1})
        came = [await deliveries_of(settings, one.subscription_id, 1) for one in nowhere]
        [dead] = await read_topic(settings, settings.topics.dead_letter)
    assert [len(one) for one in came] == [1, 1]
    assert (dead.value, dict(dead.headers)["reason"]) == (b"foreign", b"no subscription-id")


async def test_what_somebody_deleted_is_an_alarm_and_the_rest_comes_back(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore
) -> None:
    settings, one = topics_ready, subscribe(store)
    async with scheduling(settings, producer):
        await park(settings, producer, [one], 20)
        await eventually(lambda: store.parked([one]) == {one: 20})
        admin = AIOKafkaAdminClient(**client_options(settings))
        await admin.start()
        await admin.delete_records({TopicPartition(settings.topics.parked, 0): RecordsToDelete(12)})
        await admin.close()
        store.set_status(one, "active")
        came = await deliveries_of(settings, one, 8)
        await eventually(lambda: store.parked([one]) != {one: 20})
    assert [record.value for record in came] == [b"%d" % n for n in range(12, 20)]
    records = await read_topic(settings, settings.topics.attempts)
    [alarm] = [found for record in records if isinstance(found := attempt_from_json(record.value), Alarm)]
    assert (alarm.source, alarm.committed_offset, alarm.position) == (f"{settings.topics.parked}:0:0", 0, 12)


async def test_a_log_that_was_made_anew_ends_the_job_with_an_alarm(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, database: Database
) -> None:
    """What was noted is gone; what is parked in the new log comes back."""
    settings, one = topics_ready, subscribe(store)
    with database.transaction() as connection:
        values = {"id": one, "topic": settings.topics.parked}
        connection.execute(text("insert into parked values (:id, :topic, 0, 500, 600, 100)"), values)
    async with scheduling(settings, producer):
        store.set_status(one, "active")
        await park(settings, producer, [one], 5)
        came = await deliveries_of(settings, one, 5)

        def states() -> list[str]:
            with database.transaction() as connection:
                return list(connection.execute(text("select distinct state from replays")).scalars())

        await eventually(lambda: states() == ["done"])
    assert [record.value for record in came] == [b"%d" % n for n in range(5)]


async def test_without_postgres_it_waits_stays_in_its_group_and_notes_everything_afterwards(
    topics_ready: Settings, producer: Producer, store: SubscriptionStore, caplog: pytest.LogCaptureFixture
) -> None:
    settings, one = topics_ready, subscribe(store)
    there = urlsplit(settings.database_url.get_secret_value())
    proxy = TcpProxy(there.hostname or "", there.port or 5432)
    await proxy.open()
    through = there._replace(netloc=there.netloc.replace(f":{there.port}", f":{proxy.port}")).geturl()
    cut_off = settings.model_copy(update={"database_url": SecretStr(through)})
    async with scheduling(cut_off, producer):
        await park(settings, producer, [one], 3)
        # Not before the group has it: whoever is cut off from the answer notes the same once more.
        await eventually(lambda: _is_noted(settings, 3))
        assert store.parked([one]) == {one: 3}
        await proxy.cut()
        await park(settings, producer, [one], 7, first=3)
        store.set_status(one, "active")  # Postgres itself is well: the API reaches it
        await eventually(lambda: len(refusals(caplog)) > 3)
        assert await _is_noted(settings, 3), "nothing is passed over"
        assert await _members(settings) == 1
        await proxy.open()
        came = await deliveries_of(settings, one, 10, within_s=40)
    await proxy.cut()
    assert [record.value for record in came] == [b"%d" % n for n in range(10)]


async def _a_whole_step(
    settings: Settings, store: SubscriptionStore, one: str, deep: int, more_than: int
) -> list[ConsumerRecord]:
    """What has come back once it is more, and the cursor says the same."""
    found: list[ConsumerRecord] = []

    async def whole() -> bool:
        nonlocal found
        found = await deliveries_of(settings, one, more_than + 1)
        return store.parked([one]).get(one, 0) == deep - len(found)

    await eventually(whole)
    return found


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage() == "parked_not_noted"]


async def _is_noted(settings: Settings, next_offset: int) -> bool:
    """Whether that is what the group has committed."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(settings.topics.group(NOTING))
        committed = offsets.get(TopicPartition(settings.topics.parked, 0))
        return committed is not None and committed.offset == next_offset
    finally:
        await admin.close()


async def _members(settings: Settings) -> int:
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        [answer] = await admin.describe_consumer_groups([settings.topics.group(NOTING)])
        return len(answer.to_object()["groups"][0]["members"])
    finally:
        await admin.close()
