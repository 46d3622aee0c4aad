"""POST /subscriptions/{id}/test: a sample event on the way of every other one, whatever the subscription filters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ingest_api import auth
from ingest_api.ingest import MOST_OUTSTANDING, Producer
from ingest_api.openapi import problems
from ingest_api.permissions import Manager
from ingest_api.problems import RETRY_AFTER, Problem
from ingest_api.recent import Accepted, RecentlyAccepted
from ingest_api.subscription_fields import EventType
from ingest_api.subscriptions import Store, find
from shared.clock import Clock
from shared.errors import NotConfirmed, RecordTooLarge
from shared.record_ids import new_webhook_id
from shared.records import Delivery

SAMPLE_TYPE = "hooklog.test"
_SAMPLE = {"message": "A sample event from Hooklog."}


class SampleEvent(BaseModel):
    """The event to send; without a body: one of type `hooklog.test`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"event_type": "order.created", "payload": {"order_id": 4711}}},
    )

    event_type: EventType = SAMPLE_TYPE
    payload: Any = Field(None, description="Any JSON, sent as the body; null: a sample with its event_type.")

    def body(self) -> bytes:
        """The bytes to send. Raises ValueError: no JSON that can be written."""
        content = {"event_type": self.event_type, **_SAMPLE} if self.payload is None else self.payload
        try:
            return orjson.dumps(content)
        except TypeError:  # a lone surrogate, a number beyond 64 bits, too deep
            raise ValueError("payload cannot be written as JSON") from None


class SampleAccepted(BaseModel):
    """Kafka has it: `/status/{webhook_id}` tells what becomes of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "accepted",
                "message": "The sample event is in the log and will be delivered.",
                "webhook_id": "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2",
                "subscription_id": "5e5c3c1e-0f2b-4f7e-9d52-0c9e3f6f2a11",
                "event_type": SAMPLE_TYPE,
            }
        }
    )

    status: Literal["accepted"] = "accepted"
    message: str = "The sample event is in the log and will be delivered."
    webhook_id: str
    subscription_id: str
    event_type: str


@dataclass(frozen=True, slots=True)
class SampleIO:
    """What sending a sample touches."""

    producer: Producer
    recent: RecentlyAccepted
    clock: Clock
    deliveries_topic: str
    ack_timeout_s: float
    most_body_bytes: int


def router(store: Store, io: SampleIO) -> APIRouter:
    """The one route."""
    routes = APIRouter(prefix="/subscriptions", tags=["subscriptions"])

    @routes.post("/{subscription_id}/test", status_code=202, responses=problems(400, 404, 413, 415, 422))
    async def test(
        request: Request, subscription_id: str, caller: Manager, body: SampleEvent | None = None
    ) -> SampleAccepted:
        """Send a sample event to this subscription, signed and retried like any other; its filter is not asked.
        While it is paused, the event is kept like any other."""
        subscription = await asyncio.to_thread(find, store, subscription_id, caller)
        sample = body or SampleEvent()
        delivery = Delivery(
            webhook_id=new_webhook_id(),
            subscription_id=subscription.id,
            payload=_payload(sample, io.most_body_bytes),
            accepted_ms=io.clock.now_ms(),
            event_type=sample.event_type,
            content_type="application/json",
            tenant=subscription.tenant,
            hops=auth.hops(request.scope),
        )
        await _send(delivery, io)
        io.recent.add(
            delivery.webhook_id,
            Accepted(subscription.id, subscription.tenant, delivery.event_type, delivery.accepted_ms),
        )
        return SampleAccepted(
            webhook_id=delivery.webhook_id, subscription_id=subscription.id, event_type=sample.event_type
        )

    return routes


def _payload(sample: SampleEvent, most_bytes: int) -> bytes:
    try:
        payload = sample.body()
    except ValueError as error:
        raise Problem(422, "invalid_request", f"{error}.") from None
    if len(payload) > most_bytes:
        raise Problem(413, "body_too_large", f"The payload is larger than {most_bytes} bytes (MAX_PAYLOAD_BYTES).")
    return payload


async def _send(delivery: Delivery, io: SampleIO) -> None:
    if io.producer.outstanding >= MOST_OUTSTANDING:
        raise Problem(503, "overloaded", "Too many events wait for the broker; try again.", RETRY_AFTER)
    try:
        await io.producer.send(delivery.to_record(io.deliveries_topic), io.ack_timeout_s)
    except RecordTooLarge:
        raise Problem(413, "body_too_large", "The event does not fit the topic's record size.") from None
    except NotConfirmed:
        detail = "Kafka did not confirm in time. The sample may still be delivered."
        raise Problem(503, "not_confirmed", detail, RETRY_AFTER) from None
