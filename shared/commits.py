"""How far each partition is done, and telling the group so: within seconds, and again when that failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

log = logging.getLogger(__name__)

#: By itself a commit waits for a broker as long as there is none, and nobody hears of it.
_TIMEOUT_S = 3.0


class Committer(Protocol):
    """What is needed of an AIOKafkaConsumer."""

    def assignment(self) -> set[TopicPartition]: ...

    async def commit(self, offsets: dict[TopicPartition, int]) -> None: ...


class Commits:
    """The next offsets of one membership; after a loss of partitions `forget` them, or begin with a new one of these.

    What is not committed is repeated by the next owner and not lost.
    """

    def __init__(self) -> None:
        self._done: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._one_at_a_time = asyncio.Lock()

    def done(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Everything before these is done with."""
        self._done.update(next_offsets)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """They are another member's now, or ours anew."""
        for tp in partitions:
            self._done.pop(tp, None)
            self._committed.pop(tp, None)

    async def commit(self, consumer: Committer) -> str:
        """Commit what has moved of what is ours: "" or, in one line, why it failed. The next call makes it good."""
        async with self._one_at_a_time:
            # What was done while it was being given away would set its next owner back.
            self.forget(self._done.keys() - consumer.assignment())
            moved = {tp: at for tp, at in self._done.items() if self._committed.get(tp) != at}
            if not moved:
                return ""
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await consumer.commit(moved)
            except (KafkaError, TimeoutError) as error:
                trouble = f"commit: {f'{type(error).__name__}: {error}'.removesuffix(': ')}"
                log.warning("commit_failed", extra={"error": trouble})
                return trouble
            self._committed.update(moved)
            return ""
