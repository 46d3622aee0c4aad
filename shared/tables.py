"""The tables, as SQLModel classes. `deploy/migrations` makes them; a test compares the two.

Times of the log are `timestamptz`; ids of webhooks and subscriptions are text there, because records of other
producers may carry any id. Neither `deliveries` nor `attempts` refers to `subscriptions`: deleting one keeps history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

#: Advisory locks, so that two processes never do the same of these at once.
LOCK_SUBSCRIPTION_WRITES = 0x686F6F6B_0001
LOCK_MIGRATIONS = 0x686F6F6B_0002
LOCK_PARTITIONS = 0x686F6F6B_0003
LOCK_API_KEY_WRITES = 0x686F6F6B_0004


def _text(*, optional: bool = False, key: bool = False) -> Any:
    return Field(default=None if optional else ..., sa_column=Column(Text, nullable=optional, primary_key=key))


def _time(*, optional: bool = False, key: bool = False) -> Any:
    column = Column(DateTime(timezone=True), nullable=optional, primary_key=key)
    return Field(default=None if optional else ..., sa_column=column)


def _number(of: type[Any], *, optional: bool = False, key: bool = False) -> Any:
    column = Column(of, nullable=optional, primary_key=key, autoincrement=False)
    return Field(default=None if optional else ..., sa_column=column)


class InstallationRow(SQLModel, table=True):
    """One row: text that only the installation's ENCRYPTION_KEY can read, so that a wrong key is seen at start."""

    __tablename__ = "installation"

    id: int = _number(Integer, key=True)
    key_check: str = _text()


class SubscriptionRow(SQLModel, table=True):
    """Who wants which events. ``sealed_…`` are encrypted; ``deleted_at`` makes a tombstone: caches hear of it."""

    __tablename__ = "subscriptions"

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    tenant: str = _text()
    target_url: str = _text()
    status: str = _text()
    #: Empty: every type. `order.*` is stored as written.
    event_types: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    description: str | None = _text(optional=True)
    sealed_secret: str | None = _text(optional=True)
    sealed_signing_keys: str = _text()
    sealed_headers: str | None = _text(optional=True)
    timeout_seconds: float | None = _number(Float, optional=True)
    retry_delays: list[int] | None = Field(default=None, sa_column=Column(ARRAY(Integer), nullable=True))
    created_at: datetime = _time()
    updated_at: datetime = _time()
    #: From one sequence, under one lock: a higher number was committed later.
    version: int = _number(BigInteger)
    deleted_at: datetime | None = _time(optional=True)
    signature_scheme: str = _text()
    rate_limit: float | None = _number(Float, optional=True)
    max_in_flight: int | None = _number(Integer, optional=True)
    sealed_previous: str | None = _text(optional=True)
    #: Of v1 and v1a, those that go out.
    signing_versions: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    sealed_private_keys: str | None = _text(optional=True)


class DeliveryRow(SQLModel, table=True):
    """One row per webhook: where it stands. Partitioned by ``accepted_at``, which never changes for a delivery."""

    __tablename__ = "deliveries"

    id: str = _text(key=True)
    accepted_at: datetime = _time(key=True)
    subscription_id: str = _text()
    tenant: str = _text()
    event_type: str | None = _text(optional=True)
    status: str = _text()
    run: int = _number(Integer)
    latest_attempt: int = _number(Integer)
    reason: str | None = _text(optional=True)
    next_attempt_at: datetime | None = _time(optional=True)
    #: topic:partition:offset of the payload.
    source: str | None = _text(optional=True)
    #: Which of two states of one run is the later one; `attempt_log.stage_of`.
    stage: int = _number(BigInteger)
    changed_at: datetime = _time()
    #: Where the record behind this state stands in its topic; decides between two that are otherwise equal.
    log_partition: int = _number(Integer)
    log_offset: int = _number(BigInteger)
    #: The event of `events` that it was fanned out from.
    event_id: str | None = _text(optional=True)


class EventRow(SQLModel, table=True):
    """One row per event of `events`. Partitioned by ``accepted_at``, which its deliveries share."""

    __tablename__ = "events"

    id: str = _text(key=True)
    accepted_at: datetime = _time(key=True)
    tenant: str = _text()
    event_type: str | None = _text(optional=True)
    #: How many subscriptions wanted it; None: it is not fanned out yet.
    matched: int | None = _number(Integer, optional=True)
    fanned_out_at: datetime | None = _time(optional=True)
    #: topic:partition:offset of the payload.
    source: str | None = _text(optional=True)
    #: 0: accepted, 1: fanned out. Of two rows the later one stands.
    stage: int = _number(SmallInteger)
    log_partition: int = _number(Integer)
    log_offset: int = _number(BigInteger)


class AttemptRow(SQLModel, table=True):
    """One row per attempt, and one per wait, parking or cancellation (``kind``)."""

    __tablename__ = "attempts"

    webhook_id: str = _text(key=True)
    #: Derived from webhook, run and number (and kind and waits for what is no attempt): a repeat is the same row.
    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    accepted_at: datetime = _time(key=True)
    subscription_id: str = _text()
    tenant: str = _text()
    event_type: str | None = _text(optional=True)
    target_url: str | None = _text(optional=True)
    kind: str = _text()
    run: int = _number(Integer)
    attempt: int = _number(Integer)
    waits: int = _number(Integer)
    attempted_at: datetime = _time()
    outcome: str | None = _text(optional=True)
    reason: str | None = _text(optional=True)
    http_status_code: int | None = _number(Integer, optional=True)
    error_class: str | None = _text(optional=True)
    error_details: str | None = _text(optional=True)
    duration_ms: float | None = _number(Float, optional=True)
    timings_ms: dict[str, float] | None = Field(default=None, sa_column=Column(JSONB, nullable=True))
    address: str | None = _text(optional=True)
    next_attempt_at: datetime | None = _time(optional=True)
    source: str | None = _text(optional=True)
    #: Between two reports of one attempt the better outcome stands, then the later record.
    finality: int = _number(SmallInteger)
    log_partition: int = _number(Integer)
    log_offset: int = _number(BigInteger)
    #: What the request was, and what came back for it: bytes on the wire, without TLS.
    sent_bytes: int | None = _number(Integer, optional=True)
    received_bytes: int | None = _number(Integer, optional=True)
    #: The printable beginning of the answer's body.
    response_body: str | None = _text(optional=True)


class EndpointStateRow(SQLModel, table=True):
    """How a subscription's endpoint does: what its lane said last, and what the attempts say. One row at most each."""

    __tablename__ = "endpoint_states"

    subscription_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    breaker: str = _text()
    slow: bool = Field(sa_column=Column(Boolean, nullable=False))
    reason: str | None = _text(optional=True)
    #: When the lane said so; 1970: it has said nothing yet. Of two reports the later one stands, then by its place.
    changed_at: datetime = _time()
    open_until: datetime | None = _time(optional=True)
    log_partition: int = _number(Integer)
    log_offset: int = _number(BigInteger)
    #: The first failure after the last success; null while it succeeds.
    failing_since: datetime | None = _time(optional=True)
    last_success_at: datetime | None = _time(optional=True)
    last_failure_at: datetime | None = _time(optional=True)
    #: Why we disabled the subscription, and when: the last time.
    disabled_reason: str | None = _text(optional=True)
    disabled_at: datetime | None = _time(optional=True)


class ApiKeyRow(SQLModel, table=True):
    """Who may ask for what. The key itself is nowhere; ``prefix`` is what people know it by."""

    __tablename__ = "api_keys"

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    name: str = _text()
    prefix: str = _text()
    #: SHA-256 of the key.
    key_hash: bytes = Field(repr=False, sa_column=Column(LargeBinary, nullable=False))
    role: str = _text()
    #: Null: all tenants.
    tenant: str | None = _text(optional=True)
    created_at: datetime = _time()
    revoked_at: datetime | None = _time(optional=True)
    #: From one sequence, under one lock: a higher number was committed later.
    version: int = _number(BigInteger)


class AlarmRow(SQLModel, table=True):
    """Something a person must look at. The same alarm twice is one row."""

    __tablename__ = "alarms"

    kind: str = _text(key=True)
    consumer_group: str = _text(key=True)
    source: str = _text(key=True)
    committed_offset: int = _number(BigInteger, key=True)
    position: int = _number(BigInteger, key=True)
    raised_at: datetime = _time()
    #: Set by whoever looked at it; it no longer fails readiness then.
    acknowledged_at: datetime | None = _time(optional=True)


class IdempotencyKeyRow(SQLModel, table=True):
    """A producer's key and what it stands for, for 24 hours. Neither the key nor the body is in it, only hashes."""

    __tablename__ = "idempotency_keys"

    #: SHA-256 of tenant, route and key.
    name: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    webhook_id: str = _text()
    body_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    #: Kafka has acknowledged the event.
    confirmed: bool = Field(sa_column=Column(Boolean, nullable=False))
    expires_at: datetime = _time()


class OutboxRow(SQLModel, table=True):
    """A record that Kafka must get because of what the transaction that wrote it has changed."""

    __tablename__ = "outbox"

    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    topic: str = _text()
    key: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    value: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    #: Pairs of name and text, in order.
    headers: list[list[str]] = Field(sa_column=Column(JSONB, nullable=False))
    #: Until then it is another process' to produce.
    claimed_until: datetime = _time()


class SinkProgressRow(SQLModel, table=True):
    """How far the attempt sink has read each partition."""

    __tablename__ = "sink_progress"

    topic: str = _text(key=True)
    partition: int = _number(Integer, key=True)
    next_offset: int = _number(BigInteger)
    #: Everything appended to this partition before this time is in Postgres.
    caught_up_to: datetime = _time()
    updated_at: datetime = _time()


class ParkedRow(SQLModel, table=True):
    """What stands in one partition of `parked` for a subscription that is not active, and is in no job yet.

    Written under the lock of the subscription's row. All its records of these offsets, first to last, belong to it.
    """

    __tablename__ = "parked"

    subscription_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    topic: str = _text(key=True)
    partition: int = _number(Integer, key=True)
    from_offset: int = _number(BigInteger)
    to_offset: int = _number(BigInteger)
    records: int = _number(BigInteger)


class ReplayRow(SQLModel, table=True):
    """A job that publishes records of a topic back to `deliveries`; what it has left to do is in ``replay_ranges``."""

    __tablename__ = "replays"

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    #: resume: what was parked, in the same run.
    kind: str = _text()
    topic: str = _text()
    tenant: str = _text()
    #: Null: of any subscription.
    subscription_id: UUID | None = Field(default=None, sa_column=Column(Uuid, nullable=True))
    #: running, held (its subscription is paused again), done or cancelled.
    state: str = _text()
    reason: str | None = _text(optional=True)
    #: How many it is about, and how many are published.
    records: int = _number(BigInteger)
    published: int = _number(BigInteger)
    created_at: datetime = _time()
    #: From then on nothing is added to it.
    started_at: datetime | None = _time(optional=True)
    finished_at: datetime | None = _time(optional=True)
    #: Whoever takes a step puts this ahead, and is the only one until then.
    next_step_at: datetime = _time()
    #: When every process knows that its subscription is active.
    not_before: datetime = _time()
    #: Up to when its rate is used up.
    paced_to: datetime | None = _time(optional=True)
    #: The last step that published anything: when, how many, and where the last one stands in `deliveries`.
    stepped_at: datetime | None = _time(optional=True)
    last_records: int = _number(Integer)
    last_partition: int | None = _number(Integer, optional=True)
    last_offset: int | None = _number(BigInteger, optional=True)


class ReplayRangeRow(SQLModel, table=True):
    """Offsets of one partition that a job goes through: a durable cursor."""

    __tablename__ = "replay_ranges"

    replay_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("replays.id", ondelete="CASCADE"), primary_key=True),
    )
    partition: int = _number(Integer, key=True)
    from_offset: int = _number(BigInteger, key=True)
    to_offset: int = _number(BigInteger)
    next_offset: int = _number(BigInteger)
