"""attempts -> Postgres, in batches; `deliveries` and `events` for the rows of what is queued. A process of its own.

Batches of 2,000 records or 200 ms; offsets are committed after Postgres has committed, and every row may be written
again: a crash repeats work and loses nothing. While Postgres is out of reach the sink waits and stays in its group.
Between the two, subscriptions whose endpoints are at an end are disabled: see `disabling`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from delivery_stream.disabling import Disabling, to_disable
from delivery_stream.sink_batch import Batch, Row
from delivery_stream.watermark import Mark, Watermarks
from shared import logs, outbox
from shared.attempt_rows import Progress, row_of_alarm
from shared.attempt_writer import AttemptWriter
from shared.clock import Clock, SystemClock
from shared.commits import Commits
from shared.database import Database
from shared.endpoint_states import forget_deleted
from shared.errors import ConfigurationError, NotConfirmed, RecordTooLarge, StoreUnavailable, ValuesRefused
from shared.health import serve_health
from shared.kafka import Producer, SkipWatch, leave, new_consumer
from shared.log_partitions import LogPartitions
from shared.membership import while_member
from shared.metrics import DISABLED, SINK_LAG_SECONDS, SINK_RECORDS
from shared.records import Record, Source
from shared.settings import Settings, load_settings
from shared.subscription_store import disable

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_BATCH_RECORDS = 2000
_BATCH_S = 0.2
_PROGRESS_EVERY_S = 0.5
_RETENTION_EVERY_S = 3600.0
_TELL_EVERY_S = 5.0
_BROKER_ANSWER_S = 3.0
#: Longer than every timeout of the connection: Postgres takes calls and answers none.
_WRITE_TIMEOUT_S = 30.0
_LONGEST_BACK_OFF_S = 5.0
#: From the broker's acknowledgement that ingest still waits for, with room for clocks that differ.
_MARGIN_S = 1.0
_STOP_DEADLINE_S = 20.0


class Publishes(Protocol):
    """What the sink needs of the producer."""

    async def send(self, record: Record, timeout_s: float | None = None) -> Source: ...


class AttemptSink(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One member of the group; several share the partitions."""

    def __init__(self, settings: Settings, producer: Publishes, *, clock: Clock | None = None) -> None:
        """Connects to nothing yet. Raises ConfigurationError."""
        self._settings = settings
        self._topics = settings.topics
        #: What is read: everything that happened, and what was accepted and waits.
        self._read = (self._topics.attempts, self._topics.deliveries, self._topics.events)
        self._producer = producer
        self._clock = clock or SystemClock()
        self._group = self._topics.group("attempt-sink")
        self._database = Database(settings.database_url.get_secret_value(), pool_size=2)
        self._writer = AttemptWriter(self._database, failing_for_s=settings.disable_after_hours * 3600)
        self._days = LogPartitions(self._database, settings.attempt_log_retention_days)
        self._threads = ThreadPoolExecutor(2, "attempt-sink")
        self._watermarks = Watermarks(int((settings.ack_timeout_seconds + _MARGIN_S) * 1000))
        self._consumer: AIOKafkaConsumer
        self._skips: SkipWatch
        self._commits: Commits
        self._kafka_trouble = "not a member of the group yet"
        self._postgres_trouble = "nothing written yet"
        self._progress_s = 0.0
        self._next_telling_s = 0.0
        self._retention_s = -_RETENTION_EVERY_S
        self._known_partitions: dict[str, int] = {}

    def troubles(self) -> Mapping[str, str]:
        """Why the sink is not ready; empty when it is."""
        found = {"kafka": self._kafka_trouble, "postgres": self._postgres_trouble}
        if hasattr(self, "_skips"):
            found["records_skipped"] = self._skips.trouble
        return {name: trouble for name, trouble in found.items() if trouble}

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. Kafka out of reach: waits and joins again."""
        while not stop.is_set():
            try:
                await self._membership(stop)
            except KafkaError as error:
                self._kafka_trouble = f"{type(error).__name__}: {error}"
                log.warning("membership_lost", extra={"error": self._kafka_trouble})
                await self._clock.sleep(1.0)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._database.close()

    async def _membership(self, stop: asyncio.Event) -> None:
        self._consumer = new_consumer(
            self._settings,
            group=self._group,
            topics=self._read,
            listener=self,
            fetch_max_wait_ms=200,
        )
        self._skips = SkipWatch(self._consumer, self._group, clock=self._clock)
        self._commits = Commits()
        try:
            await self._consumer.start()
            while not stop.is_set():
                await self._step(stop)
        finally:
            await leave(self._consumer)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        log.info("assigned", extra={"partitions": len(assigned)})
        self._kafka_trouble = ""
        for partition in assigned:
            self._watermarks.assigned(partition, self._clock.now_ms())
        try:
            async with asyncio.timeout(_BROKER_ANSWER_S):
                committed = await asyncio.gather(*map(self._consumer.committed, assigned))
        except (KafkaError, TimeoutError) as error:
            log.warning("committed_unknown", extra={"error": type(error).__name__})
        else:
            self._skips.assigned(dict(zip(assigned, committed, strict=True)))

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        # What is in hand is written, and read again by the next owner: the same rows.
        self._skips.revoked(revoked)
        self._commits.forget(revoked)
        for partition in revoked:
            self._watermarks.revoked(partition)

    # -- one batch, from the fetch to the commit

    async def _step(self, stop: asyncio.Event) -> None:
        batch = await self._collect()
        progress_due = self._clock.monotonic_s() - self._progress_s >= _PROGRESS_EVERY_S
        if progress_due:
            self._progress_s = self._clock.monotonic_s()
            await self._look_at_the_ends()
            batch.alarms = [row_of_alarm(alarm) for alarm in await self._skips.alarms()]
        if not batch.records and not progress_due:
            return
        progress = await self._progress(batch, progress_due)
        if await self._until_stored(lambda: self._write(batch, progress), stop):
            SINK_RECORDS.inc(batch.records)
            await self._bury(batch)
            if await self._disable(batch, stop) and await self._tell(stop):
                self._commits.done(batch.next_offsets)
                self._kafka_trouble = await self._commits.commit(self._consumer) or self._kafka_trouble

    async def _collect(self) -> Batch:
        batch = Batch(self._topics)
        deadline_s = self._clock.monotonic_s() + _BATCH_S
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0 and batch.records < _BATCH_RECORDS:
            room = _BATCH_RECORDS - batch.records
            fetched = await self._consumer.getmany(timeout_ms=int(left_s * 1000) + 1, max_records=room)
            for partition, records in fetched.items():
                self._skips.received(partition, records[0].offset, records[-1].offset)
                batch.add(partition, records)
            await asyncio.sleep(0)  # with records in its buffer getmany returns without giving way
        return batch

    async def _until_stored(self, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """Try until Postgres has it; False: asked to stop meanwhile, and nothing may be committed."""
        back_off_s = 0.2
        while True:
            try:
                await while_member(self._consumer, work())
            except StoreUnavailable as error:
                if not self._postgres_trouble:
                    log.warning("postgres_out_of_reach", extra={"error": str(error)})
                self._postgres_trouble = str(error)
            else:
                self._postgres_trouble = ""
                return True
            if stop.is_set():
                return False
            await while_member(self._consumer, self._clock.sleep(back_off_s))
            back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)

    async def _write(self, batch: Batch, progress: list[Progress]) -> None:
        await self._call(self._prepare, batch.days)
        rows = [*(row for _, row in batch.rows), *batch.alarms]
        try:
            batch.failing = await self._call(self._writer.write_batch, rows, progress)
        except ValuesRefused:
            batch.failing = []
            await self._bisect(batch.rows, batch)
            await self._call(self._writer.write_batch, batch.alarms, progress)

    async def _bisect(self, rows: list[Row], batch: Batch) -> None:
        """Write what can be written; what cannot is found by halving."""
        if not rows:
            return
        try:
            batch.failing += await self._call(self._writer.write_batch, [row for _, row in rows], [])
        except ValuesRefused as error:
            if len(rows) == 1:
                batch.refuse(rows[0][0], f"postgres refused it: {error}")
                return
            middle = len(rows) // 2
            await self._bisect(rows[:middle], batch)
            await self._bisect(rows[middle:], batch)

    def _prepare(self, days: set[str]) -> None:
        """In a thread: partitions for these days, and once an hour what is too old goes."""
        today = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).date()
        self._days.ensure(map(date.fromisoformat, days), today)
        for topic, count in self._unregistered().items():
            self._writer.register_partitions(topic, count)
            self._known_partitions[topic] = count
        if self._clock.monotonic_s() - self._retention_s >= _RETENTION_EVERY_S:
            self._retention_s = self._clock.monotonic_s()
            dropped = self._days.drop_old(today)
            forget_deleted(self._database)
            if dropped:
                log.info("old_days_dropped", extra={"partitions": dropped})

    def _unregistered(self) -> dict[str, int]:
        counts = {topic: len(self._consumer.partitions_for_topic(topic) or ()) for topic in self._read}
        return {topic: count for topic, count in counts.items() if count and self._known_partitions.get(topic) != count}

    async def _bury(self, batch: Batch) -> None:
        """What could not be read or stored goes to the dead letters as it came, with the reason."""
        for source, reason in batch.refused:
            log.error("row_refused", extra={"source": str(source), "reason": reason})
        for letter in batch.dead_letters(self._clock.now_ms()):
            await while_member(self._consumer, self._send(letter))

    async def _disable(self, batch: Batch, stop: asyncio.Event) -> bool:
        """What the batch's attempts disable. False: as `_until_stored`."""
        now_ms, after_hours = self._clock.now_ms(), self._settings.disable_after_hours
        for one in to_disable(batch.failing, batch.attempts, after_hours=after_hours, now_ms=now_ms):
            if not await self._until_stored(partial(self._set_disabled, one), stop):
                return False
        return True

    async def _set_disabled(self, one: Disabling) -> None:
        """Unless somebody has changed it meanwhile: then the next attempt decides anew."""
        subscription_id, version = one.failing.subscription_id, one.failing.version
        telling = partial(one.telling, self._topics)
        done = await self._call(disable, self._database, subscription_id, version, one.reason, telling)
        if done:
            DISABLED[one.reason].inc()
            self._next_telling_s = 0.0
        log.info("disabled", extra={"subscription_id": subscription_id, "reason": one.reason, "done": done})

    async def _tell(self, stop: asyncio.Event) -> bool:
        """Produce what is in the outbox, when we have put something there, and now and then. False: as above."""
        if self._clock.monotonic_s() < self._next_telling_s:
            return True
        return await self._until_stored(self._empty_outbox, stop)

    async def _empty_outbox(self) -> None:
        """Ours, and what another one that is gone has left there."""
        self._next_telling_s = self._clock.monotonic_s() + _TELL_EVERY_S
        claimed = await self._call(outbox.claim, self._database)
        for one in claimed:
            await self._send(one.record)
        if claimed:
            await self._call(outbox.strike_off, self._database, [one.id for one in claimed])
            self._next_telling_s = 0.0  # there may be more

    async def _send(self, record: Record) -> None:
        try:
            await self._producer.send(record)
        except RecordTooLarge:
            log.exception("record_too_large", extra={"topic": record.topic})

    # -- how far we are

    async def _look_at_the_ends(self) -> None:
        partitions = list(self._consumer.assignment())
        if not partitions:
            return
        at_ms = self._clock.now_ms()
        try:
            async with asyncio.timeout(_BROKER_ANSWER_S):
                ends = await self._consumer.end_offsets(partitions)
        except (KafkaError, TimeoutError) as error:
            self._kafka_trouble = f"no answer: {type(error).__name__}"
            return
        self._kafka_trouble = ""
        SINK_LAG_SECONDS.set((at_ms - (self._watermarks.slowest_ms() or at_ms)) / 1000)
        for partition, end_offset in ends.items():
            self._watermarks.observed(partition, Mark(at_ms, end_offset))

    async def _progress(self, batch: Batch, everything: bool) -> list[Progress]:
        """Of the partitions in the batch, or of all that are ours; what is in the batch counts as read."""
        next_offsets = dict(batch.next_offsets)
        if everything:
            for partition in self._consumer.assignment() - next_offsets.keys():
                next_offset = await self._position(partition)
                if next_offset is not None:
                    next_offsets[partition] = next_offset
        return [
            Progress(partition.topic, partition.partition, offset, self._watermarks.reached(partition, offset))
            for partition, offset in next_offsets.items()
        ]

    async def _position(self, partition: TopicPartition) -> int | None:
        try:
            async with asyncio.timeout(_BROKER_ANSWER_S):
                return int(await self._consumer.position(partition))
        except (KafkaError, TimeoutError):
            return None

    # -- waiting

    async def _call(self, work: Callable[..., _T], *args: Any) -> _T:
        """Blocking work in a thread. Raises StoreUnavailable when it takes too long."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {_WRITE_TIMEOUT_S:g} s") from None


def main() -> int:
    """The exit code: 0 after a signal, 2 for settings that cannot be used."""
    try:
        settings = load_settings()
        logs.configure("attempt-sink", settings.log_level)
        uvloop.run(serve(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def serve(settings: Settings) -> None:
    """Until a signal; the batch in hand is written and committed first."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop)
    producer = Producer(settings)
    sink = AttemptSink(settings, producer)
    health = await serve_health(settings.health_port, live=dict, ready=sink.troubles) if settings.health_port else None
    try:
        if await _kafka_is_there(producer, stop):
            log.info("started")
            await sink.run(stop)
    finally:
        await producer.stop()
        if health:
            health.cancel()
    log.info("stopped")


async def _kafka_is_there(producer: Producer, stop: asyncio.Event) -> bool:
    """Wait for a broker; False when a signal came first."""
    while not stop.is_set():
        try:
            await producer.start()
        except NotConfirmed as error:
            log.warning("kafka_out_of_reach", extra={"error": str(error)})
        else:
            return True
    return False


def _stop(stop: asyncio.Event) -> None:
    """A thread that waits for a Postgres that stands still cannot be ended otherwise."""
    stop.set()
    deadline = threading.Timer(_STOP_DEADLINE_S, os._exit, (1,))
    deadline.daemon = True
    deadline.start()


if __name__ == "__main__":
    sys.exit(main())
