"""Records to their next hops, all confirmed; one that a topic refuses goes to the dead letters by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from retry_scheduler.next_hop import Hops, Tiered
from shared.errors import InvariantBroken, RecordTooLarge
from shared.records import Record, Source


class Publisher(Protocol):
    """What is needed of the producer."""

    async def send(self, record: Record, timeout_s: float | None = None) -> Source: ...

    async def send_all(self, records: Sequence[Record], timeout_s: float | None = None) -> list[Source]: ...


async def publish(
    producer: Publisher,
    hops: Hops,
    batch: Sequence[Tiered],
    after: Callable[[Tiered, int], Record],
    now_ms: int,
) -> list[Source]:
    """``after`` is the next hop of each, at ``now_ms``; gives where they stand."""
    try:
        return await producer.send_all([after(tiered, now_ms) for tiered in batch])
    except RecordTooLarge:
        # A topic takes less than our settings say. Find the record; its companions may go twice.
        return [await _publish_one(producer, hops, tiered, after, now_ms) for tiered in batch]


async def _publish_one(
    producer: Publisher, hops: Hops, tiered: Tiered, after: Callable[[Tiered, int], Record], now_ms: int
) -> Source:
    for record in (after(tiered, now_ms), *hops.dead_letters(tiered, "too large", now_ms)):
        with contextlib.suppress(RecordTooLarge):
            return await producer.send(record)
    raise InvariantBroken(f"{tiered.source} fits no topic, not even without its payload")
