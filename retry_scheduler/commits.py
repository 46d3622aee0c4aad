"""How far each partition is confirmed, and telling the group so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from retry_scheduler.due import Held, Partition

log = logging.getLogger(__name__)

_TIMEOUT_S = 3.0


class Committer(Protocol):
    """What is needed of an AIOKafkaConsumer."""

    async def commit(self, offsets: dict[TopicPartition, int]) -> None: ...


class Commits:
    """The next offsets of one assignment. A new assignment gets a new one: what is confirmed late is nobody's."""

    def __init__(self) -> None:
        self._confirmed: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._one_at_a_time = asyncio.Lock()

    def confirm(self, batch: Iterable[Held[Any]]) -> None:
        """Every record of these, and so everything before them in their partitions, has its next hop in the log."""
        self._confirmed.update((held.partition, held.offset + 1) for held in batch)

    async def commit(self, consumer: Committer) -> bool:
        """Commit what has moved. False: it failed; the next commit makes it good, or at a revoke it means repeats."""
        async with self._one_at_a_time:
            confirmed = dict(self._confirmed)
            offsets = {TopicPartition(*p): at for p, at in confirmed.items() if self._committed.get(p) != at}
            if not offsets:
                return True
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await consumer.commit(offsets)
            except (KafkaError, TimeoutError) as error:
                log.warning("commit_failed", extra={"error": f"{type(error).__name__}: {error}"})
                return False
            self._committed = confirmed
            return True
