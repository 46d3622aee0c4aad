"""The Faust subclass on a real broker: if an upgrade of Faust moves a seam, this fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.fetch import FetchRequest
from mode.threads import WorkerThread

from delivery_stream.app import create_app
from delivery_stream.dispatcher import Dispatcher
from delivery_stream.intake import HOPS_MAX
from delivery_stream.lane import QUEUE_MAX
from delivery_stream.lanes import Lanes
from delivery_stream.partition_batches import BatchApp
from shared.broker import client_options
from shared.clock import SystemClock
from shared.completed_offsets import Commit, decode_completed
from shared.kafka import Producer, ensure_topics
from shared.records import Delivery, Record
from shared.settings import Settings
from shared.skip_watch import Positions
from tests.fakes import Handled
from tests.group_commits import committing

Handle = Callable[[Delivery], Awaitable[None]]


async def until(true: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)


class Worker:
    """A Faust app with the real dispatcher and a handler of the test's own."""

    def __init__(self, settings: Settings, handle: Handle, patience_s: float) -> None:
        self.crashes: list[BaseException] = []
        self.dispatcher = Dispatcher(
            Handled(handle, partitions=settings.partitions),
            lanes=Lanes(max_in_flight=200, max_per_endpoint=50, patience_s=patience_s),
            commit=lambda commits: self.app.commit_offsets(commits),
            clock=SystemClock(),
            watch=Positions(),
            crash=self.crashes.append,
        )
        self.app: BatchApp = create_app(settings, self.dispatcher)

    async def start(self) -> None:
        await self.app.start()

    async def stop(self, drain_s: float = 5.0) -> None:
        await self.dispatcher.drain(drain_s)
        await self.app.stop()
        assert not self.crashes
        assert self.app.crash_reason is None


@asynccontextmanager
async def running(settings: Settings, handle: Handle, patience_s: float = 30) -> AsyncIterator[Worker]:
    worker = Worker(settings, handle, patience_s)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def produce(
    settings: Settings, numbers: range, partition: int | None = None, endpoint: bytes | None = None
) -> None:
    """Each for an endpoint of its own, unless one is named."""
    producer = Producer(settings)
    await producer.start()
    topic = settings.topics.deliveries
    # Moved as often as is allowed: they are handled where they are.
    headers = [("hops", b"%d" % HOPS_MAX)]
    records = [
        Record(topic, text, text, [*headers, ("subscription-id", endpoint or text)], partition)
        for text in (str(number).encode() for number in numbers)
    ]
    await producer.send_all(records, timeout_s=20)
    await producer.stop()


async def committed(settings: Settings, partition: int) -> Commit | None:
    topic_partition = TopicPartition(settings.topics.deliveries, partition)
    async with committing(settings, "delivery-stream", [topic_partition]) as consumer:
        found = await consumer._coordinator.fetch_committed_offsets([topic_partition])
    offset = found.get(topic_partition)
    return Commit(offset.offset, offset.metadata) if offset is not None and offset.offset >= 0 else None


async def test_every_record_of_every_partition_arrives_once_and_is_committed(topics_ready: Settings) -> None:
    seen: Counter[bytes] = Counter()

    async def handle(delivery: Delivery) -> None:
        seen[delivery.payload] += 1

    await produce(topics_ready, range(2000))
    async with running(topics_ready, handle) as worker:
        await until(lambda: len(seen) == 2000, "2,000 records")
        assert len(set(worker.dispatcher.partitions)) == 2 * topics_ready.partitions, "deliveries and events"
    assert set(seen.values()) == {1}
    positions = [await committed(topics_ready, partition) for partition in range(topics_ready.partitions)]
    assert sum(position.next_offset for position in positions if position) == 2000


async def test_what_was_done_above_an_unfinished_head_is_not_asked_for_again_after_a_crash(
    topics_ready: Settings,
) -> None:
    first: Counter[bytes] = Counter()
    second: Counter[bytes] = Counter()
    never = asyncio.Event()

    async def stuck_head(delivery: Delivery) -> None:
        if delivery.source and delivery.source.offset in (0, 7):
            await never.wait()
        first[delivery.payload] += 1

    async def healthy(delivery: Delivery) -> None:
        second[delivery.payload] += 1

    await produce(topics_ready, range(100), partition=3)
    worker = Worker(topics_ready, stuck_head, patience_s=30)
    await worker.start()
    await until(lambda: len(first) == 98, "all but the two stuck ones")
    assert await worker.dispatcher.commit()
    commit = await committed(topics_ready, 3)
    assert commit is not None
    assert commit.next_offset == 0
    assert decode_completed(commit) == set(range(100)) - {0, 7}
    await worker.stop(drain_s=0.1)

    async with running(topics_ready, healthy):
        await produce(topics_ready, range(100, 101), partition=3)
        await until(lambda: second[b"100"] == 1, "the later record")
        await until(lambda: len(second) == 3, "the two stuck ones")
    assert second == {b"0": 1, b"7": 1, b"100": 1}
    never.set()


async def test_a_second_worker_joins_under_load_and_nothing_is_lost(topics_ready: Settings) -> None:
    """Every record is finished; what the first worker had finished is committed before it gives a partition away."""
    finished: Counter[bytes] = Counter()
    by_second: set[bytes] = set()

    async def slowly(delivery: Delivery) -> None:
        await asyncio.sleep(0.05)
        finished[delivery.payload] += 1

    async def slowly_by_second(delivery: Delivery) -> None:
        await slowly(delivery)
        by_second.add(delivery.payload)

    async def load() -> None:
        for start in range(0, 6000, 500):
            await produce(topics_ready, range(start, start + 500))

    async with running(topics_ready, slowly) as one:
        loading = asyncio.create_task(load())
        await until(lambda: len(finished) > 500, "the first 500")
        async with running(topics_ready, slowly_by_second) as other:
            await until(lambda: len(set(other.dispatcher.partitions)) > 0, "partitions of the second worker")
            await loading
            await produce(topics_ready, range(6000, 6100))
            await until(lambda: len(finished) == 6100, "every record finished")
            shared_out = set(one.dispatcher.partitions) | set(other.dispatcher.partitions)
            assert len(shared_out) == 2 * topics_ready.partitions
            assert not set(one.dispatcher.partitions) & set(other.dispatcher.partitions)
            for topic in (topics_ready.topics.deliveries, topics_ready.topics.events):
                assert sum(tp.topic == topic for tp in other.dispatcher.partitions) == topics_ready.partitions // 2
    assert by_second
    assert sum(finished.values()) == 6100, "a drained hand-over repeats nothing"


class StuckEndpoint:
    """Answers nobody until it is released; all others are quick."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self.released = asyncio.Event()

    async def handle(self, delivery: Delivery) -> None:
        if delivery.subscription_id == "stuck":
            await self.released.wait()
        self.seen[delivery.payload] += 1


async def test_a_batch_that_has_no_room_holds_up_no_other_partition(topics_ready: Settings) -> None:
    stuck = StuckEndpoint()
    await produce(topics_ready, range(5000), partition=3, endpoint=b"stuck")
    async with running(topics_ready, stuck.handle, patience_s=10_000) as worker:
        await until(lambda: worker.dispatcher.lanes.waiting == QUEUE_MAX, "a full lane")
        await produce(topics_ready, range(5000, 5100), partition=0)
        await until(lambda: len(stuck.seen) == 100, "100 records of another partition")
        assert worker.dispatcher.lanes.waiting == QUEUE_MAX, "back-pressure all the while"
        stuck.released.set()
        await until(lambda: len(stuck.seen) == 5100, "the others")
    assert set(stuck.seen.values()) == {1}


async def test_nothing_that_was_fetched_stays_where_it_stops_further_fetches(topics_ready: Settings) -> None:
    """aiokafka asks a broker for nothing, 100 ms at a time, while something of that broker lies with it."""
    stuck = StuckEndpoint()
    await produce(topics_ready, range(5000), partition=3, endpoint=b"stuck")
    async with running(topics_ready, stuck.handle, patience_s=10_000) as worker:
        await until(lambda: worker.dispatcher.lanes.waiting == QUEUE_MAX, "a full lane")
        consumer = worker.app.consumer._thread._consumer  # type: ignore[attr-defined]
        partition = TopicPartition(topics_ready.topics.deliveries, 3)
        await until(lambda: consumer.paused() == {partition}, "the one that has no room is not asked for")
        await until(lambda: not consumer._fetcher._records, "what had come of it is thrown away")
        stuck.released.set()
        await until(lambda: len(stuck.seen) == 5000 and not consumer.paused(), "all of it")


async def test_while_a_partition_is_held_no_request_that_leaves_it_out_waits_long(topics_ready: Settings) -> None:
    """There is one request to a broker at a time: whoever may go on would wait for its end."""
    stuck, waits_ms = StuckEndpoint(), list[int]()
    await produce(topics_ready, range(5000), partition=3, endpoint=b"stuck")
    async with running(topics_ready, stuck.handle, patience_s=10_000) as worker:
        await until(lambda: worker.dispatcher.lanes.waiting == QUEUE_MAX, "a full lane")
        fetcher = worker.app.consumer._thread._consumer._fetcher  # type: ignore[attr-defined]
        send = fetcher._client.send

        async def noted(node: int, request: Any, *args: Any, **options: Any) -> Any:
            if isinstance(request, FetchRequest):
                waits_ms.append(request._max_wait_ms)
            return await send(node, request, *args, **options)

        fetcher._client.send = noted
        await until(lambda: waits_ms[-3:] == [20, 20, 20], "short requests for the others")
        stuck.released.set()
        await until(lambda: waits_ms[-1:] == [500] and len(stuck.seen) == 5000, "long ones again")


async def test_what_waits_for_room_is_left_to_whoever_has_it_next(topics_ready: Settings) -> None:
    stuck = StuckEndpoint()
    await produce(topics_ready, range(5000), partition=3, endpoint=b"stuck")
    async with running(topics_ready, stuck.handle, patience_s=10_000) as one:
        await until(lambda: one.dispatcher.lanes.waiting == QUEUE_MAX, "a full lane")
        async with running(topics_ready, stuck.handle, patience_s=10_000) as other:
            await until(lambda: len(set(other.dispatcher.partitions)) > 0, "partitions of the second worker")
            stuck.released.set()
            await until(lambda: len(stuck.seen) == 5000, "all of it")


async def test_the_first_fault_is_the_one_that_is_told(topics_ready: Settings) -> None:
    """The consumer ends with the app, and the fetch that is under way then must not look like the reason."""
    worker = Worker(topics_ready, Mock(side_effect=AssertionError), patience_s=30)
    await worker.start()
    await until(lambda: worker.dispatcher.joined, "member of the group")
    fault = KeyError("a bug")
    await worker.app.crash(fault)
    consumer = worker.app.consumer._thread._consumer  # type: ignore[attr-defined]
    await until(lambda: consumer._closed, "the consumer's end")
    ended_s = time.monotonic()
    assert not await worker.app.commit_offsets({TopicPartition(topics_ready.topics.deliveries, 3): Commit(1, "")})
    await asyncio.sleep(0.5)
    assert worker.app.turned_s < ended_s, "nothing is fetched any more"
    await worker.app.stop()
    assert worker.app.crash_reason is fault


async def test_the_consumer_has_no_thread(topics_ready: Settings) -> None:
    async with running(topics_ready, Mock(side_effect=AssertionError)) as worker:
        await until(lambda: worker.dispatcher.joined, "member of the group")
        assert not [thread for thread in threading.enumerate() if isinstance(thread, WorkerThread)]


async def test_the_group_s_answers_to_heartbeats_are_noted(topics_ready: Settings) -> None:
    async def handle(_delivery: Delivery) -> None:
        """Nothing comes."""

    async with running(topics_ready, handle) as worker:
        await until(lambda: worker.app.heartbeat_s > 0, "membership")
        joined_s = worker.app.heartbeat_s
        await until(lambda: worker.app.heartbeat_s > joined_s, "a heartbeat")
        beat_s = worker.app.heartbeat_s
        await until(lambda: worker.app.heartbeat_s > beat_s, "another one")
        assert time.monotonic() - worker.app.heartbeat_s < 10
        assert time.monotonic() - worker.app.turned_s < 10


async def made_again(settings: Settings) -> None:
    """`deliveries` is deleted and there again, empty, before anybody has looked."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    await admin.delete_topics([settings.topics.deliveries])
    while settings.topics.deliveries in await admin.list_topics():  # noqa: ASYNC110  nobody tells when it is gone
        await asyncio.sleep(0.02)
    await admin.close()
    await ensure_topics(settings)


async def test_a_stop_in_the_middle_of_a_rebalance_is_no_fault(topics_ready: Settings) -> None:
    async with running(topics_ready, Mock(side_effect=AssertionError)) as worker:
        await until(lambda: worker.dispatcher.joined, "member of the group")
        joined_s = time.monotonic()
        await until(lambda: worker.app.turned_s > joined_s, "a fetch, which takes a second with nothing to come")
        worker.app.on_rebalance_start()
        # Faust's fetcher was cancelled in its fetch: `Worker.stop` asks whether that was a crash.


async def test_a_topic_that_is_made_again_under_a_running_worker_is_read_from_its_first_record(
    topics_ready: Settings,
) -> None:
    seen: set[bytes] = set()

    async def handle(delivery: Delivery) -> None:
        seen.add(delivery.payload)

    await produce(topics_ready, range(100), partition=3)
    async with running(topics_ready, handle) as worker:
        await until(lambda: len(seen) == 100, "100 records")
        await made_again(topics_ready)
        await produce(topics_ready, range(100, 110), partition=3)
        await until(lambda: len(seen) == 110, "10 records of the new log")
        assert worker.dispatcher.next_offset(TopicPartition(topics_ready.topics.deliveries, 3)) == 10


async def test_a_committed_offset_beyond_the_end_of_its_log_is_another_log_s(topics_ready: Settings) -> None:
    seen: set[bytes] = set()

    async def handle(delivery: Delivery) -> None:
        seen.add(delivery.payload)

    await produce(topics_ready, range(10), partition=3)
    partition = TopicPartition(topics_ready.topics.deliveries, 3)
    async with committing(topics_ready, "delivery-stream", [partition]) as consumer:
        await consumer.commit({partition: 100})
    async with running(topics_ready, handle) as worker:
        await until(lambda: len(seen) == 10, "10 records")
        assert worker.app.replaced == f"{partition.topic}:3 ends at 10 and was read up to 100: it is another log"
