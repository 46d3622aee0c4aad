"""Event, Delivery and Attempt, and how they stand in a Kafka record: value = exact bytes, metadata = text headers.

Pure. A header that is absent has a default, so old and new processes can live together during an upgrade.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import msgspec
import orjson
import uuid_utils

from shared.clock import from_rfc3339, to_rfc3339
from shared.errors import UnreadableRecord
from shared.frozen import frozen

Headers = Sequence[tuple[str, bytes]]


#: Ids that are derived, never drawn, are made in this namespace. Another one would undo "repeats are harmless".
_NAMESPACE = uuid_utils.UUID("6f6c6b6f-6f68-5f67-8000-9c3f1d5a7b21")
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
        id=texts.get("webhook-id") or _derived(str(source)),
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
        webhook_id=texts.get("webhook-id") or _derived(str(source)),
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


def new_webhook_id() -> str:
    """A fresh UUIDv7 (RFC 9562): its first 48 bits are the milliseconds since 1970."""
    return str(uuid_utils.uuid7())


def uuid7_ms(text: str) -> int | None:
    """The time inside a UUIDv7; None for anything else."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed.int >> 80 if parsed.version == 7 else None


def attempt_id(webhook_id: str, run: int, attempt: int) -> str:
    """Derived from (delivery, run, number), so that a repeated attempt is one row."""
    return _derived(f"{webhook_id}/{run}/{attempt}")


def delivery_id(event_id: str, subscription_id: str) -> str:
    """Derived from both, so that an event fanned out twice is one delivery.

    No attempt and no place in a log has such a text: those end in "/number" and ":number", this in ">" and a UUID.
    """
    return _derived(f"{event_id}>{subscription_id}")


def _derived(text: str) -> str:
    """A UUIDv5 (RFC 9562); Python's own takes seven times as long."""
    return str(uuid_utils.uuid5(_NAMESPACE, text))


def disabling_id(subscription_id: str, version: int, reason: str) -> str:
    """Of the event that tells of it: the same however often one version of the subscription is disabled.

    It ends in a word: no other text that an id is made from does.
    """
    return _derived(f"{subscription_id}@{version} {reason}")


AttemptKind = Literal["attempt", "waiting", "parked", "resumed", "cancelled"]
AttemptOutcome = Literal["succeeded", "failed_attempt", "permanently_failed"]
#: Why a delivery waits in a tier without an attempt.
WaitReason = Literal["busy", "rate_limited", "throttled", "breaker_open", "stores_unreachable"]


@frozen
class Attempt:
    """One record of `attempts`: what happened to a delivery. Times are milliseconds since 1970.

    ``kind`` "attempt": one POST, or a final failure without one (address refused, too old). "waiting", "parked" and
    "cancelled" tell why there was none; "resumed": what was parked is on its way again. ``outcome`` is set on attempts
    only. ``reason`` is the dead letter's or the cancellation's.
    """

    kind: AttemptKind
    webhook_id: str
    subscription_id: str
    run: int
    attempt: int
    accepted_ms: int
    attempted_ms: int
    tenant: str = "default"
    event_type: str | None = None
    target_url: str | None = None
    waits: int = 0
    outcome: AttemptOutcome | None = None
    reason: str | None = None
    http_status_code: int | None = None
    error_class: str | None = None
    error_details: str | None = None
    duration_ms: float | None = None
    timings_ms: Mapping[str, float] | None = None
    address: str | None = None
    next_attempt_ms: int | None = None
    source: str | None = None
    event_id: str | None = None
    #: The request and what came back for it, as on the wire but for TLS.
    sent_bytes: int | None = None
    received_bytes: int | None = None
    #: The printable beginning of the answer's body, without our secrets.
    response_body: str | None = None

    @property
    def id(self) -> str:
        return attempt_id(self.webhook_id, self.run, self.attempt)

    def to_record(self, topic: str) -> Record:
        """As a JSON record of `attempts`; times become RFC 3339 under ``…_at``."""
        return Record(topic, self.subscription_id.encode(), _json(self, id=self.id))


@frozen
class Alarm:
    """A record of `attempts` that is about a process and no delivery: records were skipped, someone must look."""

    kind: Literal["records_skipped"]
    group: str
    source: str
    committed_offset: int
    position: int
    raised_ms: int

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.source.encode(), _json(self))


@frozen
class FannedOut:
    """A record of `attempts` that is about an event of `events`: its deliveries are all in the log.

    "unmatched": there are none. ``matched`` counts them. ``webhook_id`` is the event's.
    """

    kind: Literal["fanned_out", "unmatched"]
    webhook_id: str
    tenant: str
    event_type: str | None
    accepted_ms: int
    fanned_out_ms: int
    matched: int
    source: str | None = None

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.webhook_id.encode(), _json(self))


BreakerState = Literal["closed", "open", "half_open"]


@frozen
class LaneState:
    """A record of `attempts` that is about an endpoint and no delivery: its lane's breaker or pace changed.

    ``slow``: it gets less at once, after timeouts, 429 or 503. ``until_ms``: an open breaker is tried again then.
    """

    kind: Literal["breaker"]
    subscription_id: str
    tenant: str
    breaker: BreakerState
    slow: bool
    changed_ms: int
    reason: str | None = None
    until_ms: int | None = None
    consecutive_failures: int = 0

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.subscription_id.encode(), _json(self))


@frozen
class Disabled:
    """A record of `attempts` for people: a subscription was disabled, why, and since when its endpoint failed."""

    kind: Literal["disabled"]
    subscription_id: str
    tenant: str
    reason: str
    since_ms: int
    disabled_ms: int
    #: The event of `events` that tells its tenant.
    event_id: str

    def to_record(self, topic: str) -> Record:
        return Record(topic, self.subscription_id.encode(), _json(self))


def attempt_from_json(value: bytes | None) -> Attempt | Alarm | FannedOut | LaneState | Disabled | None:
    """Read a record of `attempts`; None for a kind this version does not know. Raises UnreadableRecord."""
    try:
        body = orjson.loads(value or b"")
        kind = body["kind"]
        if kind == "records_skipped":
            return _from_body(Alarm, body)
        if kind in ("fanned_out", "unmatched"):
            return _from_body(FannedOut, {"event_type": None, **body})
        if kind == "breaker":
            return _from_body(LaneState, body)
        if kind == "disabled":
            return _from_body(Disabled, body)
        if kind in get_args(AttemptKind):
            return _from_body(Attempt, body)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UnreadableRecord(f"not an attempt record: {type(error).__name__}") from None
    return None


_TIMES = (
    "accepted_ms",
    "attempted_ms",
    "next_attempt_ms",
    "raised_ms",
    "fanned_out_ms",
    "changed_ms",
    "until_ms",
    "since_ms",
    "disabled_ms",
)


def _at(name: str) -> str:
    return name.removesuffix("_ms") + "_at"


_T = TypeVar("_T")


_FIELDS: dict[type, tuple[str, ...]] = {
    shape: tuple(f.name for f in fields(shape)) for shape in (Attempt, Alarm, FannedOut, LaneState, Disabled)
}


#: The names in the record of those that are times.
_TIMES_WRITTEN = {shape: tuple(_at(n) for n in names if n in _TIMES) for shape, names in _FIELDS.items()}
#: The values of all of them, in one call.
_VALUES = {shape: attrgetter(*names) for shape, names in _FIELDS.items()}


def _struct_of(shape: type) -> Callable[..., Any]:
    """The struct that is written of a shape: what is absent is left out. An attempt's id comes last."""
    names = [_at(name) if name in _TIMES else name for name in _FIELDS[shape]]
    if shape is Attempt:
        names.append("id")
    return msgspec.defstruct(shape.__name__, [(name, Any, None) for name in names], omit_defaults=True, gc=False)


_WRITTEN = {shape: _struct_of(shape) for shape in _FIELDS}
_encode = msgspec.json.Encoder().encode


def _json(what: Attempt | Alarm | FannedOut | LaneState | Disabled, **derived: str) -> bytes:
    """Its fields without the absent ones. A dict of so many would cost more than all the rest of a record."""
    shape = type(what)
    written = _WRITTEN[shape](*_VALUES[shape](what), **derived)
    for name in _TIMES_WRITTEN[shape]:
        at_ms = getattr(written, name)
        if at_ms is not None:
            setattr(written, name, to_rfc3339(at_ms))
    return _encode(written)


def _from_body(shape: type[_T], body: Mapping[str, Any]) -> _T:
    known: dict[str, Any] = {}
    for name in _FIELDS[shape]:
        if name in _TIMES and _at(name) in body:
            known[name] = from_rfc3339(body[_at(name)])
        elif name in body:
            known[name] = body[name]
    return shape(**known)


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
