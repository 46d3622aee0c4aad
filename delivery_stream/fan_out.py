"""One event of `events` -> one delivery per subscription of its tenant that wants it.

Paused and disabled subscriptions get theirs as well: the stream parks it. Ids are derived from event and subscription,
so an event fanned out again after a crash makes the same deliveries.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiokafka import ConsumerRecord

from delivery_stream.unreadable import bury
from shared.attempt_records import FannedOut
from shared.clock import Clock
from shared.errors import RecordTooLarge, UnreadableRecord
from shared.event_filter import wants
from shared.records import Event, Record, Source, event_from_record
from shared.subscriptions import Interest, Unreachable
from shared.topics import Topics

log = logging.getLogger(__name__)

#: What waits for its acknowledgement at once, for each event in hand: so many records, and about so many bytes.
CHUNK_RECORDS = 500
CHUNK_BYTES = 2 * 1024 * 1024
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 5.0


class KnowsTenants(Protocol):
    """The subscriptions, by tenant."""

    async def of_tenant(self, tenant: str) -> Sequence[Interest] | Unreachable: ...


@dataclass(frozen=True, slots=True)
class FanOutIO:
    """What it takes. ``publish`` returns once Kafka has confirmed every record."""

    subscriptions: KnowsTenants
    publish: Callable[[Sequence[Record]], Awaitable[object]]
    clock: Clock
    topics: Topics


async def fan_out(record: ConsumerRecord, io: FanOutIO) -> None:
    """Returns once every delivery of the event is confirmed, and then that there are so many."""
    source = Source(record.topic, record.partition, record.offset)
    try:
        event = event_from_record(source, record.value, record.headers, record.timestamp)
        wanting = matching(event, await complete_set(event.tenant, io))
        for chunk in chunks(wanting, len(event.payload)):
            await io.publish([event.delivery_to(one).to_record(io.topics.deliveries) for one in chunk])
    except UnreadableRecord as error:
        await _bury(record, error.reason, io)
    except RecordTooLarge:
        # Only a foreign record can come so close to the limit; all its deliveries weigh the same.
        await _bury(record, "too large for its next hop", io)
    else:
        await io.publish([fanned_out(event, len(wanting), io.clock.now_ms()).to_record(io.topics.attempts)])


async def complete_set(tenant: str, io: FanOutIO) -> Sequence[Interest]:
    """All subscriptions of the tenant; waits while nobody can tell: an event must not miss one."""
    wait_s = _FIRST_WAIT_S
    while True:
        match await io.subscriptions.of_tenant(tenant):
            case Unreachable():
                await io.clock.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            case known:
                return known


def matching(event: Event, interests: Sequence[Interest]) -> list[str]:
    """The ids of the subscriptions that want this event and are not what it is about."""
    wanting = (one.subscription_id for one in interests if wants(one.event_types, event.event_type))
    return [one for one in wanting if one != event.about]


def chunks(subscription_ids: Sequence[str], payload_bytes: int) -> Iterator[Sequence[str]]:
    """In their order, so many at a time that the records of one chunk stay within both bounds; at least one."""
    size = max(1, min(CHUNK_RECORDS, CHUNK_BYTES // max(payload_bytes, 1)))
    return (subscription_ids[start : start + size] for start in range(0, len(subscription_ids), size))


def fanned_out(event: Event, matched: int, now_ms: int) -> FannedOut:
    """What the attempt log shall say."""
    log.info("fanned out", extra={"event_id": event.id, "tenant": event.tenant, "matched": matched})
    return FannedOut(
        kind="fanned_out" if matched else "unmatched",
        webhook_id=event.id,
        tenant=event.tenant,
        event_type=event.event_type,
        accepted_ms=event.accepted_ms,
        fanned_out_ms=now_ms,
        matched=matched,
        source=str(event.source) if event.source else None,
    )


async def _bury(record: ConsumerRecord, reason: str, io: FanOutIO) -> None:
    await bury(record, reason, publish=io.publish, topic=io.topics.dead_letter, failed_ms=io.clock.now_ms())
