"""A record that cannot be handled, for its own fault: into the dead letters as it came, and the partition goes on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import ConsumerRecord

from shared.records import Record, Source, raw_dead_letter

log = logging.getLogger(__name__)


async def bury(
    record: ConsumerRecord,
    reason: str,
    *,
    publish: Callable[[Sequence[Record]], Awaitable[object]],
    topic: str,
    failed_ms: int,
) -> None:
    """Returns once its dead letter, in ``topic``, is confirmed."""
    source = Source(record.topic, record.partition, record.offset)
    log.info("unreadable record", extra={"source": str(source), "reason": reason})
    dead = raw_dead_letter(
        source, record.key, record.value, record.headers, topic=topic, reason=reason, failed_ms=failed_ms
    )
    await publish([dead])
