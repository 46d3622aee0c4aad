"""How far the delivery stream is in `deliveries`: what its group has committed and done, and where the logs end."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from retry_scheduler.range_reader import RangeReader
from retry_scheduler.replay_job import Progress
from shared.clock import Clock
from shared.completed_offsets import Commit, decode_completed
from shared.kafka import client_options
from shared.settings import Settings

#: All partitions are asked for at once, at most this often: the stream commits four times a second.
_FRESH_S = 0.2
_ANSWER_S = 5.0


class StreamProgress:
    """Raises KafkaError, and TimeoutError."""

    def __init__(self, settings: Settings, reader: RangeReader, clock: Clock) -> None:
        self._settings = settings
        self._reader = reader
        self._clock = clock
        self._admin: AIOKafkaAdminClient | None = None
        self._known: dict[int, Progress] = {}
        self._asked_s = -_FRESH_S

    async def partitions(self) -> int:
        """How many partitions `deliveries` has."""
        await self._ask()
        return len(self._known)

    async def of(self, partition: int) -> Progress:
        """Of one partition, some hundred milliseconds old at most."""
        await self._ask()
        return self._known[partition]

    async def close(self) -> None:
        """It can be used again."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def _ask(self) -> None:
        if self._known and self._clock.monotonic_s() - self._asked_s < _FRESH_S:
            return
        topics = self._settings.topics
        async with asyncio.timeout(_ANSWER_S):
            admin = await self._started()
            [described] = await admin.describe_topics([topics.deliveries])
            partitions = [TopicPartition(topics.deliveries, one["partition"]) for one in described["partitions"]]
            commits = await admin.list_consumer_group_offsets(topics.group("delivery-stream"), partitions=partitions)
        ends = await self._reader.end_offsets(partitions)
        self._known = {tp.partition: _progress(commits.get(tp), ends[tp]) for tp in partitions}
        self._asked_s = self._clock.monotonic_s()

    async def _started(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            admin = AIOKafkaAdminClient(**client_options(self._settings))
            try:
                await admin.start()
            except BaseException:
                await admin.close()
                raise
            self._admin = admin
        return self._admin


def _progress(committed: Commit | None, end_offset: int) -> Progress:
    """aiokafka's own pair has the same two fields. Nothing committed yet: nothing is done."""
    commit = Commit(max(0, committed[0]), committed[1] or "") if committed else Commit(0, "")
    return Progress(commit.next_offset, decode_completed(commit), end_offset)
