"""Event and Delivery, and how they stand in a Kafka record: value = exact bytes, metadata = text headers.

Pure. A header that is absent has a default, so old and new processes can live together during an upgrade.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from shared.clock import from_rfc3339, to_rfc3339
from shared.errors import UnreadableRecord
from shared.frozen import frozen
from shared.record_ids import delivery_id, derived_id

Headers = Sequence[tuple[str, bytes]]

_MAX_HEADER_TEXT = 1024
_MAX_COUNT = 1_000_000
#: Thirty years.
_MAX_PAUSED_MS = 1_000_000_000_000


class Source(NamedTuple):
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


@frozen
class Record:
    """One record to be produced. ``partition`` None: the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None

    @property
    def size_bytes(self) -> int:
        """Key, value and headers, with Kafka's own overhead rounded up."""
        headers = self.headers
        texts = sum([len(name) + len(value) for name, value in headers])  # a list is quicker than a generator
        return 100 + len(self.key or b"") + len(self.value or b"") + texts + 10 * len(headers)


@frozen
class Event:
    """One event for whoever of its tenant wants it, as it stands in `events`. Times are milliseconds since 1970."""

    id: str
    payload: bytes
    accepted_ms: int
    event_type: str | None = None
    content_type: str | None = None
    tenant: str = "default"
    hops: int = 0
    traceparent: str | None = None
    #: The subscription that an operational event is about: it does not get it.
    about: str | None = None
    source: Source | None = field(default=None, compare=False)

    def to_record(self, topic: str) -> Record:
        """This event as a record of ``topic``, keyed by its id. Absent values are left out."""
        texts = {
            "webhook-id": self.id,
            "event-type": self.event_type,
            "content-type": self.content_type,
            "tenant": self.tenant,
            "hops": str(self.hops),
            "accepted-at": to_rfc3339(self.accepted_ms),
            "traceparent": self.traceparent,
            "about": self.about,
        }
        headers = [(name, text.encode()) for name, text in texts.items() if text is not None]
        return Record(topic, self.id.encode(), self.payload, headers)

    def delivery_to(self, subscription_id: str) -> Delivery:
        """The first record of this event's delivery to one subscription: the same one, however often it is made."""
        return Delivery(
            webhook_id=delivery_id(self.id, subscription_id),
            subscription_id=subscription_id,
            payload=self.payload,
            accepted_ms=self.accepted_ms,
            event_type=self.event_type,
            content_type=self.content_type,
            tenant=self.tenant,
            hops=self.hops,
            traceparent=self.traceparent,
            event_id=self.id,
        )


def event_from_record(source: Source, value: bytes | None, headers: Headers, timestamp_ms: int) -> Event:
    """Read a record of `events`. Raises UnreadableRecord: no payload.

    Everything else has a default, as in `delivery_from_record`: a plain Kafka client may send a bare payload.
    """
    if value is None:
        raise UnreadableRecord("null value")
    texts = _texts(headers)
    return Event(
        id=texts.get("webhook-id") or derived_id(str(source)),
        payload=value,
        accepted_ms=_time_ms(texts.get("accepted-at")) or max(timestamp_ms, 0),
        event_type=texts.get("event-type"),
        content_type=texts.get("content-type"),
        tenant=texts.get("tenant") or "default",
        hops=_number(texts.get("hops", "")),
        traceparent=texts.get("traceparent"),
        about=texts.get("about"),
        source=source,
    )


@frozen
class Delivery:
    """One event for one subscription, as it stands in `deliveries`, a retry tier, or `parked`.

    ``attempt`` is the number of the attempt this record asks for, from 1. Times are milliseconds since 1970.
    """

    webhook_id: str
    subscription_id: str
    payload: bytes
    accepted_ms: int
    event_type: str | None = None
    content_type: str | None = None
    tenant: str = "default"
    run: int = 1
    attempt: int = 1
    waits: int = 0
    hops: int = 0
    due_ms: int | None = None
    not_before_ms: int | None = None
    traceparent: str | None = None
    #: The event of `events` that this delivery was fanned out from.
    event_id: str | None = None
    #: How long it has stood in `parked`, over all pauses.
    paused_ms: int = 0
    source: Source | None = field(default=None, compare=False)

    def age_ms(self, now_ms: int) -> int:
        """How long it has been on its way. The time of a pause does not count."""
        return now_ms - self.accepted_ms - self.paused_ms

    def headers(self) -> list[tuple[str, bytes]]:
        """Everything but the payload. Absent values are left out."""
        headers = [
            ("webhook-id", self.webhook_id.encode()),
            ("subscription-id", self.subscription_id.encode()),
            ("tenant", self.tenant.encode()),
            ("run", b"%d" % self.run),
            ("attempt", b"%d" % self.attempt),
            ("waits", b"%d" % self.waits),
            ("hops", b"%d" % self.hops),
            ("accepted-at", to_rfc3339(self.accepted_ms).encode()),
        ]
        if self.event_type is not None:
            headers.append(("event-type", self.event_type.encode()))
        if self.content_type is not None:
            headers.append(("content-type", self.content_type.encode()))
        if self.due_ms is not None:
            headers.append(("due-at", to_rfc3339(self.due_ms).encode()))
        if self.not_before_ms is not None:
            headers.append(("not-before", to_rfc3339(self.not_before_ms).encode()))
        if self.traceparent is not None:
            headers.append(("traceparent", self.traceparent.encode()))
        if self.event_id is not None:
            headers.append(("event-id", self.event_id.encode()))
        if self.paused_ms:
            headers.append(("paused-ms", b"%d" % self.paused_ms))
        return headers

    def to_record(self, topic: str) -> Record:
        """This delivery as a record of ``topic``, keyed by its subscription."""
        return Record(topic, self.subscription_id.encode(), self.payload, self.headers())

    def again(self, **changes: Any) -> Delivery:
        """The same delivery with some fields changed. `dataclasses.replace` takes three times as long."""
        later = Delivery(*_DELIVERY_VALUES(self))
        for name, value in changes.items():
            setattr(later, name, value)
        return later


_DELIVERY_VALUES = attrgetter(*(f.name for f in fields(Delivery)))


def delivery_from_record(source: Source, value: bytes | None, headers: Headers, timestamp_ms: int) -> Delivery:
    """Read a record of `deliveries`, a tier or `parked`. Raises UnreadableRecord: no payload, or no subscription.

    Records of plain Kafka clients carry as little as a ``subscription-id``: a missing ``webhook-id`` is derived from
    the record's place in the log, a missing time is the record's own, a bad number is its default.
    """
    if value is None:
        raise UnreadableRecord("null value")
    texts = _texts(headers)
    subscription_id = texts.get("subscription-id")
    if not subscription_id:
        raise UnreadableRecord("no subscription-id")
    return Delivery(
        webhook_id=texts.get("webhook-id") or derived_id(str(source)),
        subscription_id=subscription_id,
        payload=value,
        accepted_ms=_time_ms(texts.get("accepted-at")) or max(timestamp_ms, 0),
        event_type=texts.get("event-type"),
        content_type=texts.get("content-type"),
        tenant=texts.get("tenant") or "default",
        run=_number(texts.get("run", "")) or 1,
        attempt=_number(texts.get("attempt", "")) or 1,
        waits=_number(texts.get("waits", "")),
        hops=_number(texts.get("hops", "")),
        due_ms=_time_ms(texts.get("due-at")),
        not_before_ms=_time_ms(texts.get("not-before")),
        traceparent=texts.get("traceparent"),
        event_id=texts.get("event-id"),
        paused_ms=_number_up_to(_MAX_PAUSED_MS, texts.get("paused-ms", "")),
        source=source,
    )


def dead_letter(
    delivery: Delivery, topic: str, *, reason: str, failed_ms: int, status: int | None, error: str
) -> Record:
    """The delivery's record of the dead-letter topic. ``attempt`` stays the number of the attempt that failed."""
    extra = {
        "reason": reason,
        "last-status": "" if status is None else str(status),
        "last-error": error[:500],
        "failed-at": to_rfc3339(failed_ms),
        "source": "" if delivery.source is None else str(delivery.source),
    }
    return Record(topic, delivery.subscription_id.encode(), delivery.payload, delivery.headers() + _encoded(extra))


def raw_dead_letter(
    source: Source, key: bytes | None, value: bytes | None, headers: Headers, *, topic: str, reason: str, failed_ms: int
) -> Record:
    """A record nobody can read, as it came (foreign headers up to 8 KiB in all), with its reason and its source."""
    ours = {"reason": reason, "failed-at": to_rfc3339(failed_ms), "source": str(source)}
    kept: list[tuple[str, bytes]] = []
    room = 8 * 1024
    for name, content in headers:
        room -= len(name.encode()) + len(content or b"")
        if room < 0:
            break
        if name not in ours and content is not None:
            kept.append((name, content))
    # aiokafka sends no record that has neither key nor value.
    key = b"" if key is None and value is None else key
    return Record(topic, key, value, kept + _encoded(ours))


def _encoded(texts: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return [(name, text.encode()) for name, text in texts.items() if text]


def _texts(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Headers as text, the last of a name wins; what is no UTF-8, or too long to be ours, is as if absent."""
    texts = {}
    for name, value in headers:
        if value is not None and len(value) <= _MAX_HEADER_TEXT:
            try:
                texts[name] = value.decode()
            except UnicodeDecodeError:
                continue
    return texts


@lru_cache(maxsize=4096)
def _number(text: str) -> int:
    """A count of ours; 0 for what is none."""
    return _number_up_to(_MAX_COUNT, text)


def _number_up_to(most: int, text: str) -> int:
    """Digits, as many as ``most`` has or fewer; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else 0


def _time_ms(text: str | None) -> int | None:
    try:
        at_ms = from_rfc3339(text) if text else None
    except (ValueError, OverflowError):
        return None
    return at_ms if at_ms is not None and at_ms >= 0 else None
