"""Pure: a due or replayed record in, the record that follows it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from aiokafka.structs import ConsumerRecord

from shared.errors import UnreadableRecord
from shared.records import Delivery, Headers, Record, Source, dead_letter, delivery_from_record, raw_dead_letter
from shared.topics import RetrySchedule, Topics

#: The clock of the worker that wrote a ``not-before`` may be so far ahead of the broker's, which tells of the append.
CLOCK_SKEW_MS = 5 * 60 * 1000
#: Ours never lies further ahead of the record's append (`Retry-After` is cut to 24 h): one that does is foreign, and
#: following it could keep a record circling for ever.
NOT_BEFORE_MAX_MS = 24 * 3600 * 1000 + CLOCK_SKEW_MS


@dataclass(frozen=True, slots=True)
class Tiered:
    """A record of a tier or of `parked`, as it came."""

    source: Source
    key: bytes | None
    value: bytes | None
    headers: Headers
    appended_ms: int

    @classmethod
    def of(cls, record: ConsumerRecord) -> Tiered:
        source = Source(record.topic, record.partition, record.offset)
        return cls(source, record.key, record.value, record.headers, record.timestamp)

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        headers = sum(100 + len(name) + len(value or b"") for name, value in self.headers)
        return 500 + len(self.key or b"") + len(self.value or b"") + headers


@dataclass(frozen=True, slots=True)
class Hops:
    """Where due records go."""

    topics: Topics
    schedule: RetrySchedule
    #: The largest record a topic takes.
    max_record_bytes: Callable[[str], int]

    def after(self, tiered: Tiered, now_ms: int) -> Record:
        """`deliveries`; another tier while its ``not-before`` lies ahead; a dead letter when it fits nowhere else."""
        try:
            delivery = delivery_from_record(tiered.source, tiered.value, tiered.headers, tiered.appended_ms)
        except UnreadableRecord as error:
            return self._dead(tiered, error.reason, now_ms)
        record = self._onward(delivery, tiered, now_ms)
        return record if self._fits(record) else self._dead(tiered, "too large", now_ms)

    def resumed(self, tiered: Tiered, now_ms: int) -> Record:
        """`deliveries`, for the same attempt, with the time it was parked noted; a dead letter when it does not fit."""
        try:
            delivery = delivery_from_record(tiered.source, tiered.value, tiered.headers, tiered.appended_ms)
        except UnreadableRecord as error:
            return self._dead(tiered, error.reason, now_ms)
        parked_ms = max(0, now_ms - tiered.appended_ms) if tiered.appended_ms >= 0 else 0
        again = delivery.again(due_ms=None, not_before_ms=None, paused_ms=delivery.paused_ms + parked_ms)
        record = again.to_record(self.topics.deliveries)
        return record if self._fits(record) else self._dead(tiered, "too large", now_ms)

    def _onward(self, delivery: Delivery, tiered: Tiered, now_ms: int) -> Record:
        rest_ms = (delivery.not_before_ms or 0) - now_ms
        ours = (delivery.not_before_ms or 0) - tiered.appended_ms <= NOT_BEFORE_MAX_MS
        if rest_ms <= 0 or not ours:
            return delivery.again(due_ms=None, not_before_ms=None).to_record(self.topics.deliveries)
        delay_s = self.schedule.wait_tier(rest_ms / 1000)
        again = delivery.again(waits=delivery.waits + 1, due_ms=now_ms + delay_s * 1000)
        return again.to_record(self.topics.tier(delay_s))

    def dead_letters(self, tiered: Tiered, reason: str, now_ms: int) -> Iterator[Record]:
        """From the fullest to the smallest; the last resort tells where the payload stands and does not hold it."""
        topic = self.topics.dead_letter
        try:
            delivery = delivery_from_record(tiered.source, tiered.value, tiered.headers, tiered.appended_ms)
            yield dead_letter(delivery, topic, reason=reason, failed_ms=now_ms, status=None, error="")
        except UnreadableRecord:
            pass
        raw = raw_dead_letter(
            tiered.source, tiered.key, tiered.value, tiered.headers, topic=topic, reason=reason, failed_ms=now_ms
        )
        yield raw
        yield replace(raw, value=None, key=raw.key or b"")
        yield replace(raw, value=None, key=b"")

    def _dead(self, tiered: Tiered, reason: str, now_ms: int) -> Record:
        *fuller, smallest = self.dead_letters(tiered, reason, now_ms)
        return next((record for record in fuller if self._fits(record)), smallest)

    def _fits(self, record: Record) -> bool:
        return record.size_bytes <= self.max_record_bytes(record.topic)
