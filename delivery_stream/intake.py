"""One record of `deliveries`: read it, bring it home, deliver it once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from aiokafka import ConsumerRecord

from delivery_stream.repeats import Repeats
from delivery_stream.unreadable import bury
from shared.clock import Clock
from shared.errors import RecordTooLarge, UnreadableRecord
from shared.records import Delivery, Record, Source, delivery_from_record
from shared.topics import Topics, home_partition

#: A record that is not at home after so many moves is delivered where it is.
HOPS_MAX = 3


@dataclass(frozen=True, slots=True)
class IntakeIO:
    """What it takes. ``partitions`` tells how many partitions `deliveries` has."""

    deliver: Callable[[Delivery], Awaitable[None]]
    publish: Callable[[Sequence[Record]], Awaitable[object]]
    partitions: Callable[[], int]
    repeats: Repeats
    clock: Clock
    topics: Topics


async def take_in(record: ConsumerRecord, io: IntakeIO) -> None:
    """Returns once whatever follows from the record is confirmed by Kafka."""
    source = Source(record.topic, record.partition, record.offset)
    try:
        delivery = delivery_from_record(source, record.value, record.headers, record.timestamp)
    except UnreadableRecord as error:
        await bury(record, error.reason, publish=io.publish, topic=io.topics.dead_letter, failed_ms=io.clock.now_ms())
        return
    if not await _rehomed(delivery, record.partition, io):
        key = (delivery.subscription_id, delivery.webhook_id, delivery.run, delivery.attempt)
        await io.repeats.once(key, lambda: io.deliver(delivery))


async def _rehomed(delivery: Delivery, partition: int, io: IntakeIO) -> bool:
    """Other clients hash differently, and partitions are added: an endpoint's state lives where its key belongs."""
    home = home_partition(delivery.subscription_id, io.partitions())
    if home == partition or delivery.hops >= HOPS_MAX:
        return False
    moved = delivery.again(hops=delivery.hops + 1).to_record(io.topics.deliveries)
    try:
        await io.publish([replace(moved, partition=home)])
    except RecordTooLarge:
        return False
    return True
