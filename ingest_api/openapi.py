"""What /openapi.json says beyond what FastAPI knows: the plain route of ingest, and our errors."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ingest_api.problems import MEDIA_TYPE

_EXAMPLE_ID = "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2"
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. `code` is for programs and stable; `detail` is for people.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
}
#: For the examples: one of the codes with which each status is answered.
_CODES = {
    400: "malformed_json",
    401: "key_required",
    403: "role_missing",
    404: "not_found",
    408: "too_slow",
    409: "too_many_keys",
    410: "payload_gone",
    413: "body_too_large",
    415: "json_required",
    422: "invalid_request",
    429: "subscription_limit",
    431: "head_too_large",
    503: "store_unavailable",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "What is asked for.", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
#: Answers of the server and the gate, in front of every route.
_EVERYWHERE = (400, 403, 408, 431, 503)
#: Paths that the contract writes with a slash at the end. Both forms answer, everywhere.
_WITH_SLASH = {path: f"{path}/" for path in ("/api/docs", "/keys", "/logs", "/subscriptions", "/urldata")}


#: Which of them is asked for is the subscription's `signature_scheme`.
_SIGNATURES = {
    "X-Hub-Signature-256": (
        "`hub`: `sha256=` and the hex HMAC-SHA256 of the raw body. Also read as `X-Hub-Signature-25` and `signature`, "
        'and from a body `{"body": …, "signature": <bare hex over that string>}` when none of the three is there.'
    ),
    "webhook-id": "`standard` (Standard Webhooks): the message's id.",
    "webhook-timestamp": "`standard`: seconds since 1970, at most 300 from now.",
    "webhook-signature": "`standard`: one or more `v1,<base64>`, separated by spaces.",
    "Stripe-Signature": "`stripe`: `t=<seconds>,v1=<hex>`, at most 300 seconds from now.",
    "X-Shopify-Hmac-Sha256": "`shopify`: the base64 HMAC-SHA256 of the raw body.",
}


_KEY_STATUS = {
    "Idempotency-Status": {
        "description": "Only with a key. `new`; `repeated`: the key's event, whose id this is; `unchecked`: "
        "neither Redis nor Postgres could be asked, so that a repeat may be another event.",
        "schema": {"type": "string", "enum": ["new", "repeated", "unchecked"]},
    }
}
_KEY = "1 to 255 visible ASCII characters: the same key within 24 h is the same event, answered with its id."


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route: these errors as problems."""
    return {status: _problem_response(status) for status in statuses}


def install(app: FastAPI, *, keys_asked: bool, most_body_bytes: int) -> None:
    """Replace FastAPI's description by the complete one, made once."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app, keys_asked, most_body_bytes)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _complete(app: FastAPI, keys_asked: bool, most_body_bytes: int) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    paths = {_WITH_SLASH.get(path, path): item for path, item in schema["paths"].items()}
    paths["/ingest/{subscription_id}"] = {"post": _ingest(most_body_bytes)}
    paths["/events"] = {"post": _event(most_body_bytes)}
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = _PROBLEM
    _each_operation(paths, _add_common_answers)
    if keys_asked:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}, {}]
    return {**schema, "paths": dict(sorted(paths.items()))}


def _each_operation(paths: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
    for item in paths.values():
        for operation in item.values():
            change(operation)


def _add_common_answers(operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if "HTTPValidationError" in str(answers.get("422", "")):
        del answers["422"]  # FastAPI's own form; a route that can answer 422 says so itself
    for status in (401, *_EVERYWHERE):
        answers.setdefault(str(status), _problem_response(status))


def _problem_response(status: int) -> dict[str, Any]:
    phrase = HTTPStatus(status).phrase
    code = _CODES[status]
    example = {"type": "about:blank", "title": phrase, "status": status, "detail": f"{phrase}.", "code": code}
    response: dict[str, Any] = {
        "description": phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return response


def _ingest(most_body_bytes: int) -> dict[str, Any]:
    return {
        "tags": ["ingest"],
        "summary": "Accept an event",
        "operationId": "ingest",
        "description": (
            f"Any body up to {most_body_bytes} bytes; it must parse when the Content-Type says JSON. 202 once Kafka "
            "has confirmed. The event's type is the first of: header `X-Event-Type`, query `event_type`, and in a JSON "
            "body `event_type`, `type`, `event`."
        ),
        "parameters": [
            _parameter("subscription_id", "path", "The subscription's id.", required=True),
            _parameter("event_type", "query", "The event's type."),
            _parameter("X-Event-Type", "header", "The event's type."),
            *(_parameter(name, "header", text) for name, text in _SIGNATURES.items()),
            _parameter(
                "Idempotency-Key",
                "header",
                f"{_KEY} Without it, a verified Standard Webhooks `webhook-id` is the key.",
            ),
            _parameter("traceparent", "header", "W3C trace context; handed on to the receiver."),
            _parameter("X-Hooklog-Hops", "header", "How often this event has passed through; added by our sender."),
        ],
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {"schema": {}, "example": {"event_type": "order.created", "order_id": 4711}},
                "*/*": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {"202": _ingest_accepted()} | {str(s): _problem_response(s) for s in (401, 404, 409, 413, 415)},
    }


def _ingest_accepted() -> dict[str, Any]:
    accepted = {
        "status": "accepted",
        "message": "The event is in the log and will be delivered.",
        "webhook_id": _EXAMPLE_ID,
        "delivery_id": _EXAMPLE_ID,
        "task_id": _EXAMPLE_ID,
        "subscription_id": "5e5c3c1e-0f2b-4f7e-9d52-0c9e3f6f2a11",
    }
    names = {name: {"type": "string"} for name in accepted}
    return {
        "description": "Accepted (the three ids are one), or left out by the subscription's filter (no id)",
        "headers": _KEY_STATUS,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["status", "message", "subscription_id"],
                    "properties": names | {"status": {"type": "string", "enum": ["accepted", "filtered"]}},
                },
                "example": accepted,
            }
        },
    }


def _event(most_body_bytes: int) -> dict[str, Any]:
    """POST /events."""
    envelope = {
        "type": "object",
        "required": ["event_type", "payload"],
        "properties": {
            "event_type": {"type": "string", "minLength": 1, "maxLength": 256},
            "payload": {"description": "Any JSON. Receivers get the bytes of this member as they stand in the body."},
            "tenant": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9._-]{1,64}$", "default": "default"},
        },
    }
    accepted = {"event_id": _EXAMPLE_ID}
    return {
        "tags": ["ingest"],
        "summary": "Accept an event for every subscription that wants it",
        "operationId": "post_event",
        "description": (
            f"Up to {most_body_bytes} bytes. 202 once Kafka has confirmed. Every subscription of the tenant whose "
            "filter wants the type gets a delivery. With the header `X-Event-Type` or the query `event_type` the whole "
            "body, of any type, is the payload; without, the body is an envelope with `event_type` and `payload`."
        ),
        "parameters": [
            _parameter("X-Event-Type", "header", "The event's type; the body is the payload then."),
            _parameter("event_type", "query", "The same."),
            _parameter("tenant", "query", "The tenant, where the body is the payload; absent: `default`."),
            _parameter("Idempotency-Key", "header", _KEY),
            _parameter("traceparent", "header", "W3C trace context; handed on to the receivers."),
            _parameter("X-Hooklog-Hops", "header", "How often this event has passed through; added by our sender."),
        ],
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [envelope, {}]},
                    "example": {"event_type": "order.created", "payload": {"order_id": 4711}},
                },
                "*/*": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "202": {
                "description": "Accepted",
                "headers": _KEY_STATUS,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["event_id"],
                            "properties": {"event_id": {"type": "string"}},
                        },
                        "example": accepted,
                    }
                },
            }
        }
        | {str(s): _problem_response(s) for s in (409, 413, 415, 422, 429)},
    }


def _parameter(name: str, place: str, description: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "description": description, "schema": {"type": "string"}}
