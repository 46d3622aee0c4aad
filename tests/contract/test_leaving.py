"""A member leaves while its group waits for another one, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial

from aiokafka import ConsumerRebalanceListener, TopicPartition

from shared.broker import leave, new_consumer
from shared.settings import Settings
from tests.eventually import eventually
from tests.kafka_admin import admin_of


class Revokes(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """How many joins have begun."""

    count = 0

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.count += 1

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Not asked for."""


async def test_who_leaves_while_the_group_waits_for_another_is_missed_by_nobody(topics_ready: Settings) -> None:
    group, topic, joins = topics_ready.topics.group("leaving"), topics_ready.topics.deliveries, Revokes()
    member = partial(new_consumer, topics_ready, group=group, topics=[topic])
    late, leaving, new = member(), member(listener=joins), member()
    await asyncio.gather(late.start(), leaving.start())
    # It sends its heartbeats and does not join again: the group waits for it, for minutes.
    late._coordinator._coordination_task.cancel()
    before, joining = joins.count, asyncio.create_task(new.start())
    try:
        await eventually(lambda: joins.count > before)
        gone, began_s = leaving._coordinator.member_id, asyncio.get_running_loop().time()
        async with admin_of(topics_ready) as admin:
            assert gone in await members(admin, group)
            await leave(leaving, within_s=0.5)
            assert asyncio.get_running_loop().time() - began_s < 5
            assert gone not in await members(admin, group)
            assert await members(admin, group), "the others are there"
    finally:
        await leave(late)
        async with asyncio.timeout(20):
            await joining
        await eventually(lambda: len(new.assignment()) == topics_ready.partitions)
        await leave(new)


async def members(admin: object, group: str) -> list[str]:
    [answer] = await admin.describe_consumer_groups([group])  # type: ignore[attr-defined]
    [(_, _, _, _, _, found, *_)] = answer.groups
    return [one[0] for one in found]
