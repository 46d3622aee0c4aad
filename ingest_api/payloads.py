"""GET /webhooks/{id}/payload: the exact bytes of an event, read back from the log.

Postgres keeps where the record stands (topic:partition:offset) and never the payload. What is read there is foreign
content: no browser is to render it under our address.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord
from fastapi import APIRouter, Response

from ingest_api.openapi import problems
from ingest_api.permissions import Reader
from ingest_api.problems import RETRY_AFTER, Problem
from ingest_api.status import StatusReader
from shared.attempt_log import AttemptLog, LoggedDelivery, LoggedEvent
from shared.broker import client_options
from shared.errors import UnreadableRecord
from shared.records import Source, delivery_from_record, event_from_record
from shared.settings import Settings
from shared.topics import Topics

_READ_WITHIN_S = 5.0
_STOP_WITHIN_S = 1.0
#: Each reads with a connection of its own.
_MOST_AT_ONCE = 8
_ANY_TYPE = "application/octet-stream"
_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
_UNTRUSTED = {
    "Content-Disposition": "attachment",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-store",
}


class LogReader:
    """Reads single records by their place, with a plain consumer that belongs to no group."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._room = asyncio.Semaphore(_MOST_AT_ONCE)

    async def read(self, places: Sequence[Source]) -> ConsumerRecord | None:
        """The first of these records that is still there. Raises KafkaError or TimeoutError after 5 s."""
        if not places:
            return None
        async with asyncio.timeout(_READ_WITHIN_S), self._room:
            consumer = AIOKafkaConsumer(
                **client_options(self._settings),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=1,  # one batch, and that is never less than whole
            )
            try:
                await consumer.start()
                for place in places:
                    if (found := await _record_at(consumer, place)) is not None:
                        return found
                return None
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_WITHIN_S):
                        await consumer.stop()


async def _record_at(consumer: AIOKafkaConsumer, place: Source) -> ConsumerRecord | None:
    partition = TopicPartition(place.topic, place.partition)
    consumer.assign([partition])
    first, end = await consumer.beginning_offsets([partition]), await consumer.end_offsets([partition])
    if not first[partition] <= place.offset < end[partition]:
        return None
    consumer.seek(partition, place.offset)
    try:
        record = await consumer.getone(partition)
    except OffsetOutOfRangeError:  # deleted between the question and the read
        return None
    return record if record.offset == place.offset else None


def router(reader: StatusReader, log: LogReader, topics: Topics) -> APIRouter:
    """One route."""
    routes = APIRouter(tags=["status"])

    @routes.get(
        "/webhooks/{webhook_id}/payload", response_class=Response, responses={200: _BYTES, **problems(404, 410)}
    )
    async def payload(webhook_id: str, caller: Reader) -> Response:
        """The exact bytes that were accepted, while the log has them."""
        known = await reader.status(webhook_id, caller)
        state = await asyncio.to_thread(_state, reader.attempt_log, known.id, caller.tenant)
        if state is None:
            raise Problem(503, "not_in_the_log_yet", "The event is not in the log yet; try again.", RETRY_AFTER)
        try:
            record = await log.read(list(_places(state, topics)))
        except (KafkaError, TimeoutError):
            raise Problem(503, "kafka_unavailable", "Kafka cannot be read now; try again.", RETRY_AFTER) from None
        if record is None or not _is_of(record, state):
            raise Problem(410, "payload_gone", "The payload is no longer in the log (LOG_RETENTION_HOURS).")
        return Response(record.value or b"", headers={**_UNTRUSTED, "Content-Type": _content_type(record)})

    return routes


_BYTES: dict[str, Any] = {
    "description": "The bytes as they were accepted, under their own Content-Type",
    "content": {"*/*": {"schema": {}}},  # any bytes, in OpenAPI 3.1
    "headers": {
        name: {"description": f"`{value}`", "schema": {"type": "string"}} for name, value in _UNTRUSTED.items()
    },
}


def _state(log: AttemptLog, webhook_id: str, tenant: str | None) -> LoggedDelivery | LoggedEvent | None:
    return log.delivery(webhook_id, tenant=tenant) or log.event(webhook_id, tenant=tenant)


def _places(state: LoggedDelivery | LoggedEvent, topics: Topics) -> Iterator[Source]:
    """Where it was last, and where it was before: each retry comes through `deliveries` again."""
    happened = (*state.notes, *state.attempts) if isinstance(state, LoggedDelivery) else ()
    topic = topics.deliveries if isinstance(state, LoggedDelivery) else topics.events
    seen = set()
    for text in (state.source, *(one.source for one in reversed(happened))):
        place = _place(text)
        # A record of `attempts` may name any place: no other topic is read for it.
        if place is not None and place.topic == topic and place not in seen:
            seen.add(place)
            yield place


def _place(text: str | None) -> Source | None:
    topic, _, rest = (text or "").partition(":")
    partition, _, offset = rest.partition(":")
    digits = partition + offset
    if not (partition and offset and digits.isascii() and digits.isdigit() and len(digits) < 28):
        return None
    return Source(topic, int(partition), int(offset))


def _is_of(record: ConsumerRecord, state: LoggedDelivery | LoggedEvent) -> bool:
    """Whether it is this event's: a topic that was made anew has other records at the same places."""
    read = (Source(record.topic, record.partition, record.offset), record.value, record.headers, record.timestamp)
    try:
        if isinstance(state, LoggedEvent):
            return event_from_record(*read).id == state.id
        delivery = delivery_from_record(*read)
    except UnreadableRecord:
        return False
    return (delivery.webhook_id, delivery.subscription_id) == (state.id, state.subscription_id)


def _content_type(record: ConsumerRecord) -> str:
    given = next((value for name, value in reversed(record.headers) if name == "content-type"), None)
    text = (given or b"").decode("latin-1")
    return text if _CONTENT_TYPE.fullmatch(text) else _ANY_TYPE
