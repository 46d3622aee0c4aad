"""The one place that touches Faust's inside: partition batches out, offsets back.

Stock Faust hands out records one by one at 45 times the cost of a plain loop, and commits past records still in flight
(docs/decisions/0001). What stays Faust's: app, lifecycle, group membership, rebalances, timers. What is replaced: the
loop that drains the consumer, which here gives each fetched list of one partition to an `Owner` as it is; the commits,
which are the owner's; and the consumer's thread, for what goes from one thread to another waits for the interpreter's
lock. The seams are private methods of faust-streaming 0.15.3; tests/contract holds them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, cast

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport
from faust.types import TP
from mode.threads import QueueServiceThread, WorkerThread

from delivery_stream.fetching import Fetched, Fetching, Owner
from delivery_stream.offsets import Commit
from shared.broker import leave
from shared.errors import InvariantBroken

log = logging.getLogger(__name__)
#: Faust's services speak under their module's name, which would be ours.
_FAUST_LOG = logging.getLogger("faust.app")

_COMMIT_TIMEOUT_S = 5.0
_RETRY_S = 1.0
#: How long a broker may wait with the rest for something to come, while a partition is held that may go on soon.
_HELD_WAIT_MS = 20
#: Records fetched at a time: their bytes are read in one turn of the loop.
_BATCH_MAX = 1000


class BatchApp(faust.App):
    """A Faust app whose records go to ``owner`` in partition batches. Its topics need an agent, which gets nothing."""

    logger = _FAUST_LOG

    def __init__(self, group: str, *, owner: Owner, new_consumer: Callable[[], AIOKafkaConsumer], **options: Any):
        self.owner = owner
        self.new_consumer = new_consumer
        #: When the group last heard from us and said so, by the monotonic clock; 0: never.
        self.heartbeat_s = 0.0
        #: "" or one line for readiness, until the process is started again: a log ended before its committed offset.
        self.replaced = ""
        super().__init__(group, **options)

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> _Transport:
        return _Transport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """Without tables there is nothing to store."""

    async def commit_offsets(self, commits: Mapping[TopicPartition, Commit]) -> bool:
        """Commit watermarks with their metadata; False when they did not reach the group (rebalance, broker gone)."""
        return await cast(_BatchConsumer, self.consumer).commit_offsets(commits)

    def note_replaced(self, partition: TopicPartition, next_offset: int, end: int) -> None:
        """Somebody deleted the topic and made it again, or the brokers lost what they had."""
        where = f"{partition.topic}:{partition.partition}"
        log.error("log_replaced", extra={"source": f"{where}:{next_offset}", "end": end})
        self.replaced = self.replaced or f"{where} ends at {end} and was read up to {next_offset}: it is another log"

    @property
    def turned_s(self) -> float:
        """When the loop that fetches last came round, by the monotonic clock."""
        return cast(_BatchConsumer, self.consumer).turned_s

    @property
    def lag(self) -> int:
        """Records of our partitions that are there and not fetched, as of the last fetch."""
        return cast(_BatchConsumer, self.consumer).fetching.lag

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where each log starts. Raises KafkaError."""
        return cast(Mapping[TopicPartition, int], await self.consumer.earliest_offsets(*partitions))


class _NoThread(WorkerThread):
    """In the place of Faust's thread: a task of the loop that is there."""

    def start(self) -> None:
        self._serving = self.service.parent_loop.create_task(self._serve())

    def stop(self) -> None:
        """There is no thread to wait for, and the service has said that it is shut down."""

    async def _serve(self) -> None:
        try:
            await self.service._serve()
        except Exception as error:  # noqa: BLE001 - nobody awaits this; what matters has crashed the app already
            log.error("consumer ended", extra={"error": repr(error)})
            self.service.set_shutdown()


class _Member(AIOKafkaConsumerThread):
    """Runs the consumer that we make, in our loop: Faust's own is bound to one assignor and its own fetch settings."""

    logger = _FAUST_LOG

    async def _gather_remaining_tasks(self) -> None:
        """Mode's own cancels whatever its loop has left, and it is ours."""

    def _create_worker_consumer(self, transport: Transport) -> AIOKafkaConsumer:  # noqa: ARG002 - Faust's signature
        return cast(BatchApp, self.app).new_consumer()

    async def on_thread_stop(self) -> None:
        """Faust's own waits for the group, and the group may wait for somebody else."""
        await QueueServiceThread.on_thread_stop(self)
        if self._consumer is not None:
            await leave(self._consumer)

    def close(self) -> None:
        """Faust calls it when a rebalance comes while it stops: `on_thread_stop` does all."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Who stops has finished and committed, and answers nothing any more.
        if not self.app.should_stop:
            await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        if not self.app.should_stop:
            await super().on_partitions_assigned(assigned, generation_id)

    def note_heartbeats(self) -> None:
        """From now on, what the group answers to them. The coordinator keeps that to itself."""
        coordinator = self._ensure_consumer()._coordinator
        beat, app = coordinator._do_heartbeat, cast(BatchApp, self.app)
        app.heartbeat_s = time.monotonic()  # we are a member: that is an answer too

        async def noted() -> bool:
            asked_s = time.monotonic()
            answered = bool(await beat())
            if answered:
                app.heartbeat_s = asked_s
            return answered

        if not getattr(coordinator, "hooklog_notes", False):
            coordinator._do_heartbeat, coordinator.hooklog_notes = noted, True

    async def commit_offsets(self, commits: Mapping[TopicPartition, Commit]) -> bool:
        consumer = self._ensure_consumer()
        if consumer._closed:
            # It would commit as somebody who is no member, and an empty group would take it.
            return False
        assigned = consumer.assignment()
        offsets = {tp: OffsetAndMetadata(*commit) for tp, commit in commits.items() if tp in assigned}
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await consumer.commit(offsets)
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            log.warning("commit failed", extra={"error": repr(error)})
            return False
        return len(offsets) == len(commits)

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Commit]:
        consumer = self._ensure_consumer()
        # The consumer's own `committed()` leaves the metadata out.
        found = await consumer._coordinator.fetch_committed_offsets(list(partitions))
        commits = {tp: Commit(at.offset, at.metadata or "") for tp, at in found.items() if at.offset >= 0}
        for tp, end in (await self.ends(list(commits))).items():
            if commits[tp].next_offset > end:
                cast(BatchApp, self.app).note_replaced(tp, commits.pop(tp).next_offset, end)
        new = [tp for tp in partitions if tp not in commits]
        starts = await consumer.beginning_offsets(new) if new else {}
        return commits | {tp: Commit(start, "") for tp, start in starts.items()}

    async def ends(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The next offset of each log; nothing while the brokers do not say."""
        if not partitions:
            return {}
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                return cast(Mapping[TopicPartition, int], await self._ensure_consumer().end_offsets(partitions))
        except (KafkaError, TimeoutError) as error:
            log.warning("log end unknown", extra={"error": repr(error)})
            return {}

    async def first(self, partition: TopicPartition) -> int:
        return int((await self._ensure_consumer().beginning_offsets([partition]))[partition])

    async def fetch(self, wanted: Set[TopicPartition], timeout_s: float) -> Fetched:
        consumer = self._ensure_consumer()
        records = await self._fetch_records(consumer, cast(set[TP], wanted), timeout_s, _BATCH_MAX)
        # Without a turn of the loop: the positions are those that this fetch has left.
        assignment = consumer._subscription.subscription and consumer._subscription.subscription.assignment
        states = assignment._tp_state if assignment else {}
        if not any(state.paused for state in states.values()):
            consumer._fetcher._fetch_max_wait_ms = consumer._fetch_max_wait_ms
        valid = {tp: state for tp, state in states.items() if state.has_valid_position}
        lag = sum(max((state.highwater or 0) - state.position, 0) for state in valid.values())
        return Fetched(records, {tp: state.position for tp, state in valid.items()}, lag)

    def go_back(self, partition: TopicPartition, offset: int) -> None:
        consumer = self._ensure_consumer()
        if partition in consumer.assignment():
            consumer.seek(partition, offset)

    def hold(self, partition: TopicPartition) -> None:
        """Fetch no more of it; what the broker has sent already is thrown away, and asked for again later."""
        consumer = self._ensure_consumer()
        if partition in consumer.assignment():
            consumer.pause(partition)
            # There is one request to each broker at a time: one that leaves this partition out must end soon.
            consumer._fetcher._fetch_max_wait_ms = _HELD_WAIT_MS

    def go_on(self, partition: TopicPartition) -> None:
        consumer = self._ensure_consumer()
        if partition in consumer.assignment():
            consumer.resume(partition)


class _BatchConsumer(Consumer):
    logger = _FAUST_LOG

    def __init__(self, *args: Any, **options: Any) -> None:
        self.turned_s = time.monotonic()
        super().__init__(*args, **options)
        app = cast(BatchApp, self.app)
        self.fetching = Fetching(self._member, app.owner, app.note_replaced)

    def _new_consumer_thread(self) -> _Member:
        return _Member(self, loop=self.loop, thread_loop=self.loop, Worker=_NoThread, beacon=self.beacon)

    @property
    def _owner(self) -> Owner:
        return cast(BatchApp, self.app).owner

    @property
    def _member(self) -> _Member:
        return cast(_Member, self._thread)

    async def commit_offsets(self, commits: Mapping[TopicPartition, Commit]) -> bool:
        return await self._member.commit_offsets(commits)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Switch Faust's own committer off."""
        return False

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        partitions = [TopicPartition(*tp) for tp in assigned]
        self.fetching.assigned()
        self._member.note_heartbeats()
        await self._owner.assigned(await self._committed(partitions) if partitions else {})
        await super().on_partitions_assigned(assigned, generation_id)

    async def _committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        """Until the brokers say it: aiokafka logs what is raised here, and would go on without us."""
        while True:
            try:
                return await self._member.committed(partitions)
            except KafkaError as error:
                log.warning("commits unknown", extra={"error": repr(error)})
                await asyncio.sleep(_RETRY_S)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.stop_flow()
        self.fetching.revoked()
        await self._owner.revoked([TopicPartition(*tp) for tp in revoked])
        await super().on_partitions_revoked(revoked)

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            await self._drain_until_stopped(fetcher)
        except (asyncio.CancelledError, ConsumerStoppedError):
            # Faust takes them for a crash, in the place of what has ended us; it may be the end of a stop.
            if not (self.should_stop or fetcher.should_stop):
                raise

    async def _drain_until_stopped(self, fetcher: Any) -> None:
        while not (self.should_stop or fetcher.should_stop):
            self.turned_s = time.monotonic()
            if not self.flow_active:
                await self.wait(self.can_resume_flow)  # type: ignore[arg-type] # asyncio.Event serves, as in Faust
                continue
            await self.fetching.turn(self._get_active_partitions())


class _NoProducer(Producer):
    """Faust's producer is not idempotent and is not used: `shared.kafka.Producer` is."""

    logger = _FAUST_LOG

    async def on_start(self) -> None:
        """Nothing to connect."""

    async def on_stop(self) -> None:
        """Nothing to close."""

    async def flush(self) -> None:
        """Nothing to send."""


class _Transport(Transport):
    Consumer = _BatchConsumer
    Producer = _NoProducer


async def nothing_comes_here(stream: Any) -> None:
    """The agent a topic needs to be subscribed; its records go to the owner."""
    async for _ in stream:
        raise InvariantBroken("a record reached the agent instead of the owner")
