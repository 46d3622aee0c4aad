"""POST /ingest/{subscription_id}: verify, produce, 202 once Kafka has confirmed.

A plain Starlette route on the FastAPI app: half the cost of a FastAPI one (DESIGN section 4). What its OpenAPI entry
says is in openapi.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from ingest_api import auth
from ingest_api.event_type import UnusableEventType, event_type_of, wants
from ingest_api.idempotency import Idempotency, OtherBody, is_key, name_of
from ingest_api.problems import Problem, not_found
from ingest_api.recent import Accepted, RecentlyAccepted
from ingest_api.request_body import read_bytes, refuse_coding
from ingest_api.verification import SCHEMES, verify
from shared.clock import Clock
from shared.errors import NotConfirmed, RecordTooLarge
from shared.metrics import ACK_SECONDS, EVENTS
from shared.record_ids import new_webhook_id, uuid7_ms
from shared.records import Delivery, Record, Source
from shared.subscriptions import Absent, Found, Subscription, Unreachable, canonical_id

#: Sends that wait for their ack at once; at 2,000 events/s that is a broker a whole second behind.
MOST_OUTSTANDING = 2_000
KEY_HEADER = b"idempotency-key"
_LONGEST_HEADER = 256
_VISIBLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Subscriptions(Protocol):
    """The part of SubscriptionMap that is needed here."""

    def peek(self, subscription_id: str) -> Found | Absent | None: ...
    async def get(self, subscription_id: str) -> Found | Absent | Unreachable: ...


class Producer(Protocol):
    """The part of shared.kafka.Producer that is needed here."""

    @property
    def outstanding(self) -> int: ...
    async def send(self, record: Record, timeout_s: float | None = None) -> Source: ...


@dataclass(frozen=True, slots=True)
class IngestIO:
    """What ingest touches."""

    subscriptions: Subscriptions
    producer: Producer
    recent: RecentlyAccepted
    idempotency: Idempotency
    clock: Clock
    deliveries_topic: str
    ack_timeout_s: float
    most_body_bytes: int
    new_id: Callable[[], str] = new_webhook_id


class Answer(NamedTuple):
    """JSON, and headers beside its type and length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Ingest:
    """The handler. Checks stand in the order of their cost; nothing is said about a body before its signature holds."""

    def __init__(self, io: IngestIO) -> None:
        self._io = io

    async def post(self, request: Request) -> Response:
        """The same as `answer`, as a route."""
        scope = request.scope
        answer = await self.answer(
            scope, dict(scope["headers"]), request.receive, request.path_params["subscription_id"]
        )
        return Response(answer.body, answer.status, dict(answer.headers or {}), "application/json")

    async def answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, subscription_id: str) -> Answer:
        """202 accepted or filtered. Raises Problem: 400, 401, 404, 409, 413, 415, 503.

        ``headers``: those of the scope; of one that was sent twice, the last.
        """
        try:
            return await self._answer(scope, headers, receive, subscription_id)
        except Problem as problem:
            EVENTS["unavailable" if problem.status_code >= 500 else "refused"].inc()
            raise

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, subscription_id: str
    ) -> Answer:
        subscription = await self._subscription(subscription_id)
        if subscription.secret is None:
            await auth.check_publisher(scope, subscription.tenant)
        content_type = _content_type(headers)
        self._check_room()
        body = await read_bytes(receive, headers, self._io.most_body_bytes)
        self._check_signature(subscription, scope, body)
        event_type = _event_type(scope, headers, content_type, body)
        if subscription.event_types:
            if event_type is None:
                raise Problem(400, "event_type_missing", "This subscription filters by event type and none was given.")
            if not wants(subscription.event_types, event_type):
                EVENTS["filtered"].inc()
                return _filtered(subscription)
        delivery = Delivery(
            webhook_id=self._io.new_id(),
            subscription_id=subscription.id,
            payload=body,
            accepted_ms=self._io.clock.now_ms(),
            event_type=event_type,
            content_type=content_type,
            tenant=subscription.tenant,
            hops=auth.hops(scope),
            traceparent=traceparent_of(_text(headers.get(b"traceparent"))),
        )
        key = _idempotency_key(scope, headers, subscription)
        if key is None:
            await self._send(delivery)
            return _accepted(delivery)
        return await self._send_once(key, delivery)

    async def _subscription(self, text: str) -> Subscription:
        """From memory where it is warm. An id that cannot be one is nobody's."""
        warm = self._io.subscriptions.peek(text)
        if isinstance(warm, Found):
            return warm.subscription
        subscription_id = canonical_id(text)
        if subscription_id is None:
            raise not_found("subscription")
        known = self._io.subscriptions.peek(subscription_id) or await self._io.subscriptions.get(subscription_id)
        match known:
            case Found(subscription):
                return subscription
            case Absent():
                raise not_found("subscription")
            case Unreachable():
                raise busy("store_unavailable", "The subscription cannot be looked up now; try again.")

    def _check_room(self) -> None:
        if self._io.producer.outstanding >= MOST_OUTSTANDING:
            raise busy("overloaded", "Too many events wait for the broker; try again.")

    def _check_signature(self, subscription: Subscription, scope: Scope, body: bytes) -> None:
        if subscription.secret is None:
            return
        now_ms = self._io.clock.now_ms()
        scheme = subscription.signature_scheme
        if not verify(scheme, subscription.secrets_at(now_ms), scope["headers"], body, now_ms):
            header, form = SCHEMES[scheme].header, SCHEMES[scheme].form
            raise Problem(401, "signature_invalid", f"{header} {form}.", {"WWW-Authenticate": header})

    async def _send_once(self, key: bytes, delivery: Delivery) -> Answer:
        """As `_send`, but at most one event for one key; 409 when the key stands for another body."""

        async def produce(webhook_id: str) -> None:
            # The id's own time: whoever repeats it later writes the same record, and the log has one row for both.
            accepted_ms = uuid7_ms(webhook_id) or delivery.accepted_ms
            await self._send(delivery.again(webhook_id=webhook_id, accepted_ms=accepted_ms))

        name = name_of(delivery.tenant, delivery.subscription_id, key)
        try:
            webhook_id, status = await self._io.idempotency.once(name, delivery.payload, produce)
        except OtherBody:
            raise key_reused() from None
        return _accepted(delivery.again(webhook_id=webhook_id), ("idempotency-status", status))

    async def _send(self, delivery: Delivery) -> None:
        began_s = self._io.clock.monotonic_s()
        try:
            await self._io.producer.send(delivery.to_record(self._io.deliveries_topic), self._io.ack_timeout_s)
        except RecordTooLarge:
            raise Problem(413, "body_too_large", "The event does not fit the topic's record size.") from None
        except NotConfirmed:
            raise busy(
                "not_confirmed",
                "Kafka did not confirm in time. The event may still be delivered; repeat it with an Idempotency-Key.",
            ) from None
        ACK_SECONDS.observe(self._io.clock.monotonic_s() - began_s)
        EVENTS["accepted"].inc()
        accepted = Accepted(delivery.subscription_id, delivery.tenant, delivery.event_type, delivery.accepted_ms)
        self._io.recent.add(delivery.webhook_id, accepted)


def busy(code: str, detail: str) -> Problem:
    """503: the same request may do better in a second."""
    return Problem(503, code, detail, {"Retry-After": "1"})


def content_type_of(request: Request) -> str | None:
    """The Content-Type to hand on, if any. 415 for a coded body: receivers are not told of a Content-Encoding."""
    return _content_type(dict(request.scope["headers"]))


def _content_type(headers: dict[bytes, bytes]) -> str | None:
    refuse_coding(headers)
    given = headers.get(b"content-type")
    if not given:
        return None
    content_type = _visible(given) if len(given) <= _LONGEST_HEADER else None
    if content_type is None:
        raise Problem(
            400, "content_type_unusable", f"Content-Type is at most {_LONGEST_HEADER} visible ASCII characters."
        )
    return content_type


@lru_cache(maxsize=256)
def _visible(given: bytes) -> str | None:
    text = given.decode("latin-1")
    return text if _VISIBLE.fullmatch(text) else None


def _idempotency_key(scope: Scope, headers: dict[bytes, bytes], subscription: Subscription) -> bytes | None:
    """The producer's key, if any: the header, else the message id that its signature covers."""
    if KEY_HEADER in headers:
        return key_in(scope, KEY_HEADER)
    if subscription.secret is None or subscription.signature_scheme != "standard":
        return None
    return key_in(scope, b"webhook-id")


def key_in(scope: Scope, name: bytes) -> bytes:
    """The key in this header, which was sent. Raises Problem 400 when it can be none, or was sent twice."""
    given: list[bytes] = [value for key, value in scope["headers"] if key == name]
    if len(given) != 1 or not is_key(given[0]):
        raise Problem(400, "idempotency_key_unusable", "An Idempotency-Key is 1 to 255 visible ASCII characters, once.")
    return given[0]


def key_reused() -> Problem:
    return Problem(409, "idempotency_key_reused", "This Idempotency-Key stands for an event with another body.")


def _event_type(scope: Scope, headers: dict[bytes, bytes], content_type: str | None, body: bytes) -> str | None:
    document = document_of(content_type, body)
    query = QueryParams(scope["query_string"]).get("event_type") if scope["query_string"] else None
    try:
        return event_type_of(_text(headers.get(b"x-event-type")), query, document)
    except UnusableEventType as error:
        raise Problem(400, "event_type_unusable", f"The event type cannot be used: {error}.") from None


def _text(value: bytes | None) -> str | None:
    """A header's bytes, one character each."""
    return None if value is None else value.decode("latin-1")


def document_of(content_type: str | None, body: bytes) -> Any:
    """The body parsed, where it says that it is JSON (then it must be) or says nothing at all (then it may be)."""
    says_json = content_type is not None and _is_json(content_type)
    if not says_json and (content_type is not None or not body.lstrip().startswith(b"{")):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # too deep as well
        if says_json:
            raise Problem(
                400, "malformed_json", "The Content-Type says JSON and the body is not, or is nested too deeply."
            ) from None
        return None


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence in ("application/json", "text/json") or essence.endswith("+json")


def traceparent_of(given: str | None) -> str | None:
    """A valid W3C trace context goes on; anything else is as if absent."""
    return given if given and _TRACEPARENT.fullmatch(given) else None


def _accepted(delivery: Delivery, *headers: tuple[str, str]) -> Answer:
    body = orjson.dumps(
        {
            "status": "accepted",
            "message": "The event is in the log and will be delivered.",
            "webhook_id": delivery.webhook_id,
            "delivery_id": delivery.webhook_id,
            "task_id": delivery.webhook_id,
            "subscription_id": delivery.subscription_id,
        }
    )
    return Answer(202, body, headers)


def _filtered(subscription: Subscription) -> Answer:
    message = "The subscription's filter leaves this event type out."
    return Answer(202, orjson.dumps({"status": "filtered", "message": message, "subscription_id": subscription.id}))
