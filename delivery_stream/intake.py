"""What a record of `deliveries` is: a delivery that is at home, one that has to be brought home, or unreadable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aiokafka import ConsumerRecord

from delivery_stream.unreadable import bury
from shared.clock import Clock
from shared.errors import RecordTooLarge, UnreadableRecord
from shared.frozen import frozen
from shared.records import Delivery, Record, Source, delivery_from_record
from shared.topics import Topics, home_partition

#: A record that is not at home after so many moves is delivered where it is.
HOPS_MAX = 3


@frozen
class Unreadable:
    """For its own fault."""

    reason: str


@frozen
class Astray:
    """It belongs into another partition."""

    delivery: Delivery
    home: int


def read(record: ConsumerRecord, partitions: int) -> Delivery | Astray | Unreadable:
    """``partitions``: how many `deliveries` has.

    Other clients hash differently, and partitions are added: an endpoint's state lives where its key belongs.
    """
    source = Source(record.topic, record.partition, record.offset)
    try:
        delivery = delivery_from_record(source, record.value, record.headers, record.timestamp)
    except UnreadableRecord as error:
        return Unreadable(error.reason)
    home = home_partition(delivery.subscription_id, partitions)
    return delivery if home == record.partition or delivery.hops >= HOPS_MAX else Astray(delivery, home)


@frozen
class IntakeIO:
    """What it takes to bring a record elsewhere. ``publish`` returns once Kafka has confirmed every record."""

    publish: Callable[[Sequence[Record]], Awaitable[object]]
    clock: Clock
    topics: Topics

    async def rehome(self, astray: Astray) -> bool:
        """Returns once it is in its own partition; False: it fits no record any more, and stays where it is."""
        moved = astray.delivery.again(hops=astray.delivery.hops + 1).to_record(self.topics.deliveries)
        try:
            await self.publish([replace(moved, partition=astray.home)])
        except RecordTooLarge:
            return False
        return True

    async def bury(self, record: ConsumerRecord, reason: str) -> None:
        """Returns once its dead letter is confirmed."""
        failed_ms = self.clock.now_ms()
        await bury(record, reason, publish=self.publish, topic=self.topics.dead_letter, failed_ms=failed_ms)
