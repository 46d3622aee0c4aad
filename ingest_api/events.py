"""POST /events: one event for whoever of a tenant wants its type. One record on `events`; 202 once Kafka has confirmed.

Two forms. With ``X-Event-Type`` (or the query ``event_type``) the whole body is the payload. Without, the body is an
envelope ``{event_type, payload, tenant?}`` and the payload is the exact bytes of that member.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ingest_api import auth
from ingest_api.event_type import UnusableEventType, event_type_of
from ingest_api.fan_out_budget import FanOutBudget
from ingest_api.idempotency import Idempotency, OtherBody, name_of
from ingest_api.ingest import (
    KEY_HEADER,
    MOST_OUTSTANDING,
    Producer,
    busy,
    content_type_of,
    document_of,
    key_in,
    key_reused,
    traceparent_of,
)
from ingest_api.json_member import member_bytes
from ingest_api.permissions import Caller, caller_of
from ingest_api.problems import Problem
from ingest_api.recent import Accepted, RecentlyAccepted
from ingest_api.request_body import read_body
from shared.clock import Clock
from shared.errors import NotConfirmed, RecordTooLarge
from shared.event_filter import OPERATIONAL, is_operational, wants
from shared.metrics import ACK_SECONDS, EVENTS
from shared.record_ids import new_webhook_id, uuid7_ms
from shared.records import Event
from shared.subscriptions import Interest

#: Where ingest names its subscription: keys of one route are not those of another.
_ROUTE = "events"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Tenants(Protocol):
    """The part of SubscriptionMap that is needed here."""

    def peek_tenant(self, tenant: str) -> Sequence[Interest] | None: ...


@dataclass(frozen=True, slots=True)
class EventsIO:
    """What it touches."""

    tenants: Tenants
    producer: Producer
    recent: RecentlyAccepted
    budget: FanOutBudget
    idempotency: Idempotency
    clock: Clock
    events_topic: str
    ack_timeout_s: float
    most_body_bytes: int
    new_id: Callable[[], str] = new_webhook_id


@dataclass(frozen=True, slots=True)
class Posted:
    """What a request asks for."""

    event_type: str
    payload: bytes
    tenant: str
    content_type: str | None


class Events:
    """The handler."""

    def __init__(self, io: EventsIO) -> None:
        self._io = io

    async def post(self, request: Request) -> Response:
        """202 with the event's id; 400, 409, 413, 415, 422, 429, 503 as problems."""
        try:
            return await self._post(request)
        except Problem as problem:
            EVENTS["unavailable" if problem.status_code >= 500 else "refused"].inc()
            raise

    async def _post(self, request: Request) -> Response:
        content_type = content_type_of(request)
        if self._io.producer.outstanding >= MOST_OUTSTANDING:
            raise busy("overloaded", "Too many events wait for the broker; try again.")
        body = await read_body(request, self._io.most_body_bytes)
        posted = read_posted(request, content_type, body, caller_of(request.scope, "publish"))
        self._check_budget(posted)
        event = Event(
            id=self._io.new_id(),
            payload=posted.payload,
            accepted_ms=self._io.clock.now_ms(),
            event_type=posted.event_type,
            content_type=posted.content_type,
            tenant=posted.tenant,
            hops=auth.hops(request.scope),
            traceparent=traceparent_of(request.headers.get("traceparent")),
        )
        if KEY_HEADER.decode() in request.headers:
            return await self._send_once(key_in(request.scope, KEY_HEADER), event, body)
        await self._send(event)
        return _accepted(event.id)

    def _check_budget(self, posted: Posted) -> None:
        """By the tenant's set where it is in memory; else as if one subscription wanted it, and the set is fetched."""
        known = self._io.tenants.peek_tenant(posted.tenant)
        matched = 1 if known is None else sum(wants(one.event_types, posted.event_type) for one in known)
        wait_s = self._io.budget.spend(posted.tenant, len(posted.payload) * matched, self._io.clock.monotonic_s())
        if wait_s:
            detail = "The tenant's events become too many bytes a second (MAX_FANOUT_BYTES_PER_SECOND)."
            raise Problem(429, "fan_out_limit", detail, {"Retry-After": str(ceil(wait_s))})

    async def _send_once(self, key: bytes, event: Event, body: bytes) -> Response:
        """As `_send`, but at most one event for one key; 409 when the key stands for another body or type."""

        async def produce(event_id: str) -> None:
            # The id's own time, as in ingest: whoever repeats it later writes the same record.
            accepted_ms = uuid7_ms(event_id) or event.accepted_ms
            await self._send(replace(event, id=event_id, accepted_ms=accepted_ms))

        name = name_of(event.tenant, _ROUTE, key)
        content = b"\0".join(((event.event_type or "").encode(), body))
        try:
            event_id, status = await self._io.idempotency.once(name, content, produce)
        except OtherBody:
            raise key_reused() from None
        return _accepted(event_id, {"idempotency-status": status})

    async def _send(self, event: Event) -> None:
        began_s = self._io.clock.monotonic_s()
        try:
            await self._io.producer.send(event.to_record(self._io.events_topic), self._io.ack_timeout_s)
        except RecordTooLarge:
            raise Problem(413, "body_too_large", "The event does not fit the topic's record size.") from None
        except NotConfirmed:
            raise busy(
                "not_confirmed",
                "Kafka did not confirm in time. The event may still be delivered; repeat it with an Idempotency-Key.",
            ) from None
        ACK_SECONDS.observe(self._io.clock.monotonic_s() - began_s)
        EVENTS["accepted"].inc()
        self._io.recent.add(event.id, Accepted(None, event.tenant, event.event_type, event.accepted_ms))


def _accepted(event_id: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"event_id": event_id}), 202, headers, "application/json")


def read_posted(request: Request, content_type: str | None, body: bytes, caller: Caller) -> Posted:
    """Either form. Raises Problem 400, 403 or 422."""
    document = document_of(content_type, body)
    query = request.query_params if request.scope["query_string"] else {}
    header, in_query = request.headers.get("x-event-type"), query.get("event_type")
    try:
        event_type = event_type_of(header, in_query, document)
    except UnusableEventType as error:
        raise Problem(400, "event_type_unusable", f"The event type cannot be used: {error}.") from None
    if event_type is None:
        raise Problem(400, "event_type_missing", "An event needs X-Event-Type, or a JSON body with `event_type`.")
    if is_operational(event_type):
        # Who has subscribed to them must be able to believe them.
        raise Problem(400, "event_type_reserved", f"Types that begin with `{OPERATIONAL}` are Hooklog's own.")
    if header or in_query:
        return Posted(event_type, body, caller.tenant_for(_tenant(query.get("tenant"))), content_type)
    return _from_envelope(event_type, caller.tenant_for(_tenant(document.get("tenant"))), body)


def _from_envelope(event_type: str, tenant: str, body: bytes) -> Posted:
    try:
        payload = member_bytes(body, "payload")
    except ValueError:
        raise Problem(400, "malformed_json", "The body is nested too deeply.") from None
    if payload is None:
        raise Problem(
            422, "payload_missing", "The body needs `payload`; for a body that is the payload, send X-Event-Type."
        )
    return Posted(event_type, payload, tenant, "application/json")


def _tenant(given: object) -> str | None:
    """The tenant that was named, if any. Raises Problem 422."""
    if given is None:
        return None
    if not isinstance(given, str) or not _TENANT.fullmatch(given):
        raise Problem(422, "tenant_unusable", "A tenant is 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return given
