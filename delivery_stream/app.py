"""The Faust app: which topic feeds which function. Wiring and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol, get_args

from aiokafka import TopicPartition

from delivery_stream.deliver import DeliverIO, Knows, Sends
from delivery_stream.deliveries import Deliveries
from delivery_stream.dispatcher import Dispatcher
from delivery_stream.fan_out import FanOutIO, KnowsTenants, fan_out
from delivery_stream.lane import Lane
from delivery_stream.lanes import Lanes
from delivery_stream.offsets import Commit
from delivery_stream.partition_batches import BatchApp, nothing_comes_here
from delivery_stream.watchdog import Vitals, stuck
from shared import metrics
from shared.attempt_records import LaneState
from shared.clock import Clock
from shared.errors import NotConfirmed
from shared.kafka import Producer, SkipWatch, new_consumer
from shared.settings import Settings
from shared.subscriptions import Found

log = logging.getLogger(__name__)

ROLE = "delivery-stream"

COMMIT_EVERY_S = 0.25
#: Added partitions are noticed this late; until then their records are delivered where they are, or moved once more.
PARTITIONS_EVERY_S = 30.0
SKIPS_EVERY_S = 1.0
SHOW_EVERY_S = 0.5
#: Of the group: who is not heard of for so long loses its partitions.
SESSION_S = 10.0
#: Of the 20 s a stop may take: what is under way after that is repeated by the next owner.
DRAIN_S = 12.0


class Subscriptions(Knows, KnowsTenants, Protocol):
    """One look-up for deliveries and for events."""


class Stream:
    """One stream worker: the Faust app and what it is wired to."""

    def __init__(
        self, settings: Settings, *, producer: Producer, subscriptions: Subscriptions, sender: Sends, clock: Clock
    ) -> None:
        self._settings = settings
        self._producer = producer
        self._subscriptions = subscriptions
        self._clock = clock
        self._partitions = settings.partitions
        self._tasks: list[asyncio.Task[None]] = []
        self._started_s = 0.0
        self._watch = SkipWatch(self, settings.topics.group(ROLE), clock=clock)
        self._lanes: Lanes[Any] = Lanes(
            max_in_flight=settings.max_in_flight,
            max_per_endpoint=settings.max_in_flight_per_endpoint,
            patience_s=settings.lane_patience_seconds,
        )
        fan_out_io = FanOutIO(
            subscriptions=subscriptions, publish=producer.send_all, clock=clock, topics=settings.topics
        )
        self.dispatcher = Dispatcher(
            Deliveries(
                DeliverIO(
                    subscriptions=subscriptions,
                    sender=sender,
                    publish=producer.send_all,
                    clock=clock,
                    topics=settings.topics,
                    schedule=settings.schedule,
                    timeout_s=settings.webhook_delivery_timeout_seconds,
                    max_event_age_s=settings.max_event_age_hours * 3600,
                ),
                send_soon=producer.send_soon,
                partitions=lambda: self._partitions,
            ),
            lanes=self._lanes,
            commit=self._commit,
            clock=clock,
            watch=self._watch,
            crash=self._crash,
            may_start=self._is_member,
            beside={settings.topics.events: lambda record: fan_out(record, fan_out_io)},
        )
        self.app = create_app(settings, self.dispatcher)

    async def start(self) -> None:
        """Join the group and begin. Kafka has to be there; see `__main__`, which waits for it."""
        self._partitions = await self._producer.partitions(self._settings.topics.deliveries)
        self._started_s = self._clock.monotonic_s()
        self._tasks = [
            asyncio.create_task(self.dispatcher.commit_regularly(COMMIT_EVERY_S), name="committer"),
            asyncio.create_task(self.dispatcher.tick_regularly(), name="lanes"),
            asyncio.create_task(self._show_lanes(), name="lane states"),
            asyncio.create_task(self._watch_partitions(), name="partitions"),
            asyncio.create_task(self._watch_skips(), name="skips"),
        ]
        await self.app.start()

    async def stop(self) -> None:
        """Nothing new; finish what is under way; commit; leave the group."""
        left = await self.dispatcher.drain(DRAIN_S)
        log.info("drained", extra={"unfinished": left})
        for task in self._tasks:
            task.cancel()
        await self.app.stop()

    def troubles(self) -> Mapping[str, str]:
        """Why this worker is not ready; empty when it is."""
        found = {"records_skipped": self._watch.trouble} if self._watch.trouble else {}
        if self.app.replaced:
            found["log_replaced"] = self.app.replaced
        if trouble := self._producer.trouble:
            found["kafka"] = trouble
        if not self.dispatcher.joined:
            found["group"] = "not in the group yet"
        return found

    def stuck(self) -> Mapping[str, str]:
        """Why this worker should be started again; empty while it works, or waits for something outside."""
        if not self._tasks:
            return {}
        now_s = self._clock.monotonic_s()
        return stuck(
            Vitals(
                now_s=now_s,
                turned_s=self.app.turned_s,
                progress_s=self.dispatcher.progress_s,
                heartbeat_s=max(self.app.heartbeat_s, self._started_s),
                work=self.app.lag + self.dispatcher.unfinished,
                overdue_s=self._lanes.overdue_s(now_s),
                kafka_trouble=self._producer.trouble,
            )
        )

    def _is_member(self) -> bool:
        """No request starts while our partitions may be another's: the group has not heard from us for too long."""
        return self._clock.monotonic_s() - self.app.heartbeat_s < SESSION_S

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where each log starts, for the watch over skipped records."""
        return await self.app.beginning_offsets(partitions)

    async def _commit(self, commits: Mapping[TopicPartition, Commit]) -> bool:
        return await self.app.commit_offsets(commits)

    async def _watch_partitions(self) -> None:
        while True:
            await self._clock.sleep(PARTITIONS_EVERY_S)
            with contextlib.suppress(NotConfirmed):
                self._partitions = await self._producer.partitions(self._settings.topics.deliveries)

    async def _show_lanes(self) -> None:
        """Breakers and slow mode, for the attempt log."""
        while True:
            await self._clock.sleep(SHOW_EVERY_S)
            self._set_gauges()
            for lane in self._lanes.changes(self._clock.monotonic_s()):
                await self._producer.send(self._state_of(lane).to_record(self._settings.topics.attempts))

    def _set_gauges(self) -> None:
        states = Counter(word for lane in self._lanes.loud for word in lane.words)
        for state in get_args(metrics.LaneLabel):
            metrics.LANES[state].set(states[state])
        metrics.ATTEMPTS_IN_FLIGHT.set(self._lanes.in_flight)
        metrics.LANES_QUEUED.set(self._lanes.waiting)

    def _state_of(self, lane: Lane[Any]) -> LaneState:
        breaker, slow = lane.state
        now_ms, wait_s = self._clock.now_ms(), lane.closed_s(self._clock.monotonic_s())
        match self._subscriptions.peek(lane.key):
            case Found(subscription):
                tenant = subscription.tenant
            case _:
                tenant = "default"
        return LaneState(
            kind="breaker",
            subscription_id=lane.key,
            tenant=tenant,
            breaker=breaker,
            slow=slow,
            changed_ms=now_ms,
            reason=lane.last_trouble if breaker != "closed" or slow else None,
            until_ms=now_ms + int(wait_s * 1000) if wait_s else None,
            consecutive_failures=lane.breaker.in_a_row,
        )

    async def _watch_skips(self) -> None:
        while True:
            await self._clock.sleep(SKIPS_EVERY_S)
            if self._watch.due:
                for alarm in await self._watch.alarms():
                    await self._producer.send(alarm.to_record(self._settings.topics.attempts))

    def _crash(self, error: BaseException) -> None:
        self._tasks.append(asyncio.create_task(self.app.crash(error)))


def create_app(settings: Settings, owner: Dispatcher) -> BatchApp:
    """The Faust app of one worker. Its records go to ``owner``, in partition batches."""
    group = settings.topics.group(ROLE)
    app = BatchApp(
        group,
        owner=owner,
        new_consumer=_consumer_factory(settings, group),
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")],
        store="memory://",
        value_serializer="raw",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        broker_session_timeout=SESSION_S,
        broker_request_timeout=20.0,
    )
    for topic in (settings.topics.deliveries, settings.topics.events):
        app.agent(app.topic(topic, value_serializer="raw"), name=topic)(nothing_comes_here)
    return app


def _consumer_factory(settings: Settings, group: str) -> Callable[[], object]:
    # Who has not fetched for longer than that could never join again; `stuck` looks for those much sooner.
    return lambda: new_consumer(settings, group=group, max_poll_interval_ms=24 * 3600 * 1000)
