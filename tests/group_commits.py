"""What consumer groups commit: for one of them, while they do, and against what there is."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.broker import client_options
from shared.settings import Settings

_EVERY_S = 0.05
_ANSWER_WITHIN_S = 3.0


@asynccontextmanager
async def committing(
    settings: Settings, role: str, partitions: Sequence[TopicPartition]
) -> AsyncIterator[AIOKafkaConsumer]:
    """Commits for this role's group, which has no member now, what it is told to, and nothing when it stops."""
    group = settings.topics.group(role)
    consumer = AIOKafkaConsumer(group_id=group, enable_auto_commit=False, **client_options(settings))
    await consumer.start()
    try:
        consumer.assign(list(partitions))
        yield consumer
    finally:
        await consumer.stop()


@asynccontextmanager
async def commits_watched(settings: Settings, groups: Sequence[str]) -> AsyncIterator[Mapping[str, list[float]]]:
    """For each commit of a group, when (since 1970) it was not there yet. Kafka may come and go meanwhile."""
    before_s: defaultdict[str, list[float]] = defaultdict(list)
    watching = asyncio.create_task(_watch(settings, groups, before_s))
    try:
        yield before_s
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(settings: Settings, groups: Sequence[str], before_s: defaultdict[str, list[float]]) -> None:
    last: dict[str, object] = {}
    absent_s = dict.fromkeys(groups, time.time())
    while True:
        admin = AIOKafkaAdminClient(request_timeout_ms=int(_ANSWER_WITHIN_S * 1000), **client_options(settings))
        try:
            await admin.start()
            while True:
                for group in groups:
                    asked_s = time.time()
                    async with asyncio.timeout(_ANSWER_WITHIN_S):
                        now = await admin.list_consumer_group_offsets(group)
                    if now != last.get(group):
                        last[group] = now
                        before_s[group].append(absent_s[group])
                    absent_s[group] = asked_s
                await asyncio.sleep(_EVERY_S)
        except (KafkaError, OSError, TimeoutError):
            await asyncio.sleep(0.2)
        finally:
            await admin.close()


async def unfinished(settings: Settings, groups: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Of each group, how many records of its topics it has not committed; the groups that have are not named.

    Raises KafkaError.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    consumer = AIOKafkaConsumer(**client_options(settings))
    await admin.start()
    await consumer.start()
    try:
        topics = {topic for its in groups.values() for topic in its}
        partitions = {
            described["topic"]: [
                TopicPartition(described["topic"], one["partition"]) for one in described["partitions"]
            ]
            for described in await admin.describe_topics(sorted(topics))
        }
        ends = await consumer.end_offsets([one for its in partitions.values() for one in its])
        left: dict[str, int] = {}
        for group, its in groups.items():
            committed = await admin.list_consumer_group_offsets(group)
            theirs = [one for topic in its for one in partitions[topic]]
            if lag := sum(ends[one] - max(committed[one].offset if one in committed else 0, 0) for one in theirs):
                left[group] = lag
        return left
    finally:
        await consumer.stop()
        await admin.close()
