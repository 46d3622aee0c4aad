"""What the sink has in hand: records of a few partitions as rows, and those that cannot be rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from shared.attempt_records import Alarm, Disabled, FannedOut, LaneState, attempt_from_json
from shared.attempt_rows import (
    AttemptValues,
    LogRow,
    row_of_alarm,
    row_of_attempt,
    row_of_delivery,
    row_of_event,
    row_of_fan_out,
    row_of_lane,
)
from shared.endpoint_states import Failing
from shared.errors import UnreadableRecord
from shared.records import Record, Source, delivery_from_record, event_from_record, raw_dead_letter
from shared.topics import Topics

Row = tuple[ConsumerRecord, LogRow]


@dataclass(slots=True)
class Batch:
    """Records in, rows and dead letters out."""

    topics: Topics
    rows: list[Row] = field(default_factory=list)
    alarms: list[LogRow] = field(default_factory=list)
    #: Whose endpoints are gone or fail for too long, once the rows are written.
    failing: list[Failing] = field(default_factory=list)
    next_offsets: dict[TopicPartition, int] = field(default_factory=dict)
    records: int = 0
    _refused: list[tuple[ConsumerRecord, str]] = field(default_factory=list)

    def add(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        """Records of one partition, in order."""
        self.records += len(records)
        self.next_offsets[partition] = records[-1].offset + 1
        for record in records:
            try:
                row = self._row(record)
            except UnreadableRecord as error:
                self.refuse(record, error.reason)
            else:
                if row is not None:
                    self.rows.append((record, row))

    def refuse(self, record: ConsumerRecord, reason: str) -> None:
        """It cannot be read, or not be stored."""
        self._refused.append((record, reason))

    @property
    def attempts(self) -> Iterator[AttemptValues]:
        """Those among the rows."""
        return (row.attempt for _, row in self.rows if row.attempt)

    @property
    def days(self) -> set[str]:
        """The days that the rows belong to, as in ``2026-01-31``."""
        return {row.day for _, row in self.rows if row.day}

    @property
    def refused(self) -> Iterator[tuple[Source, str]]:
        """Every refused record's place, and why."""
        return ((_source(record), reason) for record, reason in self._refused)

    def dead_letters(self, failed_ms: int) -> Iterator[Record]:
        """The refused records of `attempts`, as they came.

        Those of other topics are the stream's to bury: a second dead letter could be replayed as a second webhook.
        """
        for record, reason in self._refused:
            if record.topic == self.topics.attempts:
                yield raw_dead_letter(
                    _source(record),
                    record.key,
                    record.value,
                    record.headers,
                    topic=self.topics.dead_letter,
                    reason=reason,
                    failed_ms=failed_ms,
                )

    def _row(self, record: ConsumerRecord) -> LogRow | None:
        """None: the record tells the log nothing. Raises UnreadableRecord."""
        source = _source(record)
        if record.topic == self.topics.deliveries:
            delivery = delivery_from_record(source, record.value, record.headers, record.timestamp)
            return row_of_delivery(delivery, source)
        if record.topic == self.topics.events:
            return row_of_event(event_from_record(source, record.value, record.headers, record.timestamp), source)
        match attempt_from_json(record.value):
            case None | Disabled():
                return None
            case LaneState() as state:
                return row_of_lane(state, source)
            case Alarm() as alarm:
                return row_of_alarm(alarm)
            case FannedOut() as fanned_out:
                return row_of_fan_out(fanned_out, source)
            case happened:
                return row_of_attempt(happened, source)


def _source(record: ConsumerRecord) -> Source:
    return Source(record.topic, record.partition, record.offset)
