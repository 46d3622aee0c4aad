"""What the status and log routes answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, Field

from ingest_api.recent import Accepted
from ingest_api.subscription_fields import Time
from shared.attempt_log import EventDelivery, LoggedAttempt, LoggedDelivery, LoggedEvent
from shared.clock import to_datetime

Standing = Literal["queued", "retrying", "paused", "succeeded", "failed", "cancelled"]


class AttemptAnswer(BaseModel):
    """One POST, or (`kind` other than attempt) why there was none. Times are UTC."""

    id: str
    webhook_id: str
    subscription_id: str
    event_type: str | None
    target_url: str | None
    kind: str
    run: int = Field(description="1, and one more with each replay.")
    attempt_number: int = Field(description="From 1, within its run.")
    attempted_at: Time
    outcome: Literal["succeeded", "failed_attempt", "permanently_failed"] | None
    reason: str | None
    http_status_code: int | None
    error_class: str | None
    error_details: str | None = Field(description="At most 500 characters.")
    response_body: str | None = Field(
        description="The printable beginning of the answer's body, 500 characters at most; secrets of the subscription "
        "and signatures in it are `***`."
    )
    duration_ms: float | None = Field(description="The whole attempt.")
    timings_ms: dict[str, float] | None = Field(
        description="From its start to the first byte of the answer (`first_byte`); and how long `dns`, `connect` and "
        "`tls` took, where they were needed: a kept connection needs none of them."
    )
    address: str | None = Field(description="The address that was called.")
    sent_bytes: int | None = Field(description="The request, head and body.")
    received_bytes: int | None = Field(description="Of the answer, what was read.")
    next_attempt_at: Time | None

    @classmethod
    def of(cls, row: LoggedAttempt) -> AttemptAnswer:
        shown = {name: getattr(row, name) for name in cls.model_fields if name != "attempt_number"}
        return cls(attempt_number=row.attempt, **shown)


class DeliveryAnswer(BaseModel):
    """One of the deliveries of an event of /events; `/status/{id}` tells its attempts."""

    id: str
    subscription_id: str
    status: Standing

    @classmethod
    def of(cls, row: EventDelivery) -> DeliveryAnswer:
        return cls.model_validate(row._asdict())


class EventStatus(BaseModel):
    """Where an event stands. Of one of /events: the farthest from done of its deliveries."""

    id: str
    subscription_id: str | None = Field(description="null: not known here yet.")
    event_type: str | None
    tenant: str | None
    ingested_at: Time
    status: Standing
    reason: str | None = None
    run: int = 1
    next_attempt_at: Time | None = None
    latest_attempt: AttemptAnswer | None = None
    attempts: list[AttemptAnswer] = Field(default=[], description="The oldest first.")
    notes: list[AttemptAnswer] = Field(
        default=[], description="What was no attempt: waits, pauses and their ends, cancellation."
    )
    matched: int | None = Field(None, description="Of /events: how many subscriptions want it; null: not known yet.")
    deliveries: list[DeliveryAnswer] | None = Field(
        None, description="Of /events: the first 100 by id; null for an event of one subscription."
    )
    delivery_counts: dict[Standing, int] | None = Field(None, description="Of /events: all deliveries by status.")
    as_of: Time | None = Field(None, description="Set when the log is behind: what happened later is not in it yet.")

    @classmethod
    def of(cls, row: LoggedDelivery) -> EventStatus:
        attempts = [AttemptAnswer.of(one) for one in row.attempts]
        return cls(
            id=row.id,
            subscription_id=row.subscription_id,
            event_type=row.event_type,
            tenant=row.tenant,
            ingested_at=row.accepted_at,
            status=row.status,
            reason=row.reason,
            run=row.run,
            next_attempt_at=row.next_attempt_at,
            latest_attempt=attempts[-1] if attempts else None,
            attempts=attempts,
            notes=[AttemptAnswer.of(one) for one in row.notes],
        )

    @classmethod
    def of_event(cls, row: LoggedEvent) -> EventStatus:
        unmatched = row.matched == 0
        return cls(
            id=row.id,
            subscription_id=None,
            event_type=row.event_type,
            tenant=row.tenant,
            ingested_at=row.accepted_at,
            status="cancelled" if unmatched else _least_done(row.matched, row.counts),
            reason="unmatched" if unmatched else None,
            matched=row.matched,
            deliveries=[DeliveryAnswer.of(one) for one in row.deliveries],
            delivery_counts={status: row.counts[status] for status in get_args(Standing) if status in row.counts},
        )

    @classmethod
    def queued(cls, webhook_id: str, accepted: Accepted) -> EventStatus:
        """Accepted by this process, and not in the log yet."""
        at = to_datetime(accepted.accepted_ms)
        return cls(
            id=webhook_id,
            subscription_id=accepted.subscription_id,
            event_type=accepted.event_type,
            tenant=accepted.tenant,
            ingested_at=at,
            status="queued",
            deliveries=[] if accepted.subscription_id is None else None,
            as_of=at,
        )

    @classmethod
    def unseen(cls, webhook_id: str, accepted_ms: int, watermark_ms: int) -> EventStatus:
        """An id from a time that the log has not reached: it may be queued, and nobody here accepted it."""
        return cls(
            id=webhook_id,
            subscription_id=None,
            event_type=None,
            tenant=None,
            ingested_at=to_datetime(accepted_ms),
            status="queued",
            as_of=to_datetime(max(watermark_ms, 0)),
        )


#: Of several deliveries the first of these that there is tells where their event stands.
_LEAST_DONE: tuple[Standing, ...] = ("queued", "retrying", "paused", "failed", "cancelled", "succeeded")


def _least_done(matched: int | None, counts: Mapping[str, int]) -> Standing:
    """`queued` as well while some delivery is not in the log yet."""
    if matched is None or sum(counts.values()) < matched:
        return "queued"
    return next((status for status in _LEAST_DONE if counts.get(status)), "queued")
