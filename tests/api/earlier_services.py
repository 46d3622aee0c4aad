"""The example commands of five earlier services' documents, and what is answered to them here.

Verbatim but for the host and what stands in braces: ids, and signatures over the very body. ``SUBSCRIPTION`` is the id
that the service's first command was answered with, ``WEBHOOK`` the id of its first event.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Example(NamedTuple):
    """One command. ``shape``: the answer's keys (of its first element, for an array); "" for no body."""

    service: str
    command: str
    status: int
    shape: str | list[str] | set[str]


#: The secret with which each service's example signs.
SECRETS = {"0": "my-shared-secret", "1": "newsecret", "2": "your-secret", "3": "helloworld", "4": "updated_secret"}

_URL_DATA = {"u_id", "url", "has_secret"}
_LOG_0 = ["delivery_id", "subscription_id", "attempt", "target_url", "outcome", "timestamp"]
_SUBSCRIPTION = {"id", "target_url", "event_types", "has_secret", "created_at", "updated_at"}
_LISTED = sorted(_SUBSCRIPTION)
_ACCEPTED = {"status", "message", "webhook_id", "delivery_id", "task_id", "subscription_id"}
_FILTERED = {"status", "message", "subscription_id"}
_STATUS = {"id", "subscription_id", "ingested_at", "status", "latest_attempt", "attempts"}
_LOGS = ["id", "webhook_id", "subscription_id", "target_url", "attempt_number", "attempted_at", "outcome"]
_PROBLEM = {"type", "title", "status", "detail", "code"}

_JSON = '-H "Content-Type: application/json"'
_TYPED = f"{_JSON} -H 'X-Event-Type: order.created'"
_SIGNED_0 = (
    """-H "x-hub-signature-256: sha256={SIGNATURE}" -d '{"event":"user.created","data":{"id":123,"name":"Alice"}}'"""
)
_DATA_1 = """-d '{"data":{"foo":"bar"}}'"""
_PAIR_2 = '{"body": "payload", "signature": "{SIGNATURE}"}'
_SIGNED_3 = """-H "X-Hub-Signature-256: sha256={SIGNATURE}" -d '{"event":"test_event","data":{"hello":"world"}}'"""
_PAYLOAD_4 = """-d '{
  "payload": {
    "user_id": 123,
    "action": "created",
    "timestamp": "..."
  },
  "event_type": "user.created"
}'"""
_ACCEPT = "-H 'accept: application/json'"

EXAMPLES = [
    Example(
        "0",
        f"""curl -X POST /urldata/ {_JSON} -d '{{"url":"https://your-callback.example.com/hook","secret":"my-shared-secret"}}'""",
        201,
        _URL_DATA,
    ),
    Example("0", 'curl -X GET /urldata/{SUBSCRIPTION} -H "accept: application/json"', 200, _URL_DATA),
    Example(
        "0",
        f"""curl -X PUT /urldata/{{SUBSCRIPTION}} {_JSON} -d '{{"new_url":"https://new-callback.example.com/hook"}}'""",
        200,
        _URL_DATA,
    ),
    Example("0", f"curl -X POST /ingest/{{SUBSCRIPTION}} {_JSON} {_SIGNED_0}", 202, _ACCEPTED),
    Example("0", "curl -X GET /status/delivery/{WEBHOOK}", 200, _LOG_0),
    Example("0", "curl -X GET /status/subscription/{SUBSCRIPTION}", 200, _LOG_0),
    Example("0", "curl -X GET /status/logs/all", 200, {"delivery:{WEBHOOK}", "subscription:{SUBSCRIPTION}:logs"}),
    Example("0", f'curl -X POST /point1 {_JSON} -d \'{{"event":"e","data":{{}}}}\'', 202, ""),
    Example("0", "curl -X DELETE /urldata/{SUBSCRIPTION}", 200, {"message"}),
    Example("0", "curl -X GET /urldata/{SUBSCRIPTION}", 404, _PROBLEM),
    Example(
        "1",
        f"""curl -X POST /subscriptions/ {_JSON} -d '{{"target_url":"https://httpbin.org/post","secret":"mysecret"}}'""",
        201,
        _SUBSCRIPTION,
    ),
    Example("1", "curl /subscriptions/", 200, _LISTED),
    Example("1", "curl /subscriptions/{SUBSCRIPTION}", 200, _SUBSCRIPTION),
    Example(
        "1",
        f"curl -X PUT /subscriptions/{{SUBSCRIPTION}} {_JSON}"
        """ -d '{"target_url":"https://example.com/hooks","secret":"newsecret"}'""",
        200,
        _SUBSCRIPTION,
    ),
    Example("1", f"curl -X POST /ingest/{{SUBSCRIPTION}} {_JSON} {_DATA_1}", 401, _PROBLEM),
    Example(
        "1",
        f"""curl -v -X POST /ingest/{{SUBSCRIPTION}} {_TYPED} -H "signature: sha256={{SIGNATURE}}" {_DATA_1}""",
        202,
        _ACCEPTED,
    ),
    Example(
        "1",
        f"""curl -v -X POST /ingest/{{SUBSCRIPTION}} {_TYPED} -H "signature: sha256:deadbeef" {_DATA_1}""",
        401,
        _PROBLEM,
    ),
    Example("1", "curl /status/{WEBHOOK}", 200, _STATUS),
    Example(
        "1",
        "curl /logs/{SUBSCRIPTION}",
        200,
        ["id", "subscription_id", "webhook_id", "timestamp", "attempt", "status", "http_status", "error"],
    ),
    Example("1", "curl -X DELETE /subscriptions/{SUBSCRIPTION}", 204, ""),
    Example(
        "2",
        f"""curl -X POST "/subscriptions/" {_JSON} -d '{{
  "target_url": "https://your-app.com/webhook",
  "secret": "your-secret",
  "event_type": "order.created"
}}'""",
        201,
        _SUBSCRIPTION,
    ),
    Example(
        "2",
        f"""curl -X POST "/ingest/{{SUBSCRIPTION}}" {_TYPED} -d '{_PAIR_2}'""",
        202,
        _ACCEPTED,
    ),
    Example("2", 'curl -X GET "/status/{WEBHOOK}"', 200, _STATUS),
    Example("2", "curl /subscriptions/{SUBSCRIPTION}", 200, _SUBSCRIPTION),
    Example(
        "2",
        "curl /subscriptions/{SUBSCRIPTION}/deliveries",
        200,
        ["id", "task_id", "subscription_id", "target_url", "attempt_number", "status", "status_code", "timestamp"],
    ),
    Example("2", "curl -X DELETE /subscriptions/{SUBSCRIPTION}", 204, ""),
    Example(
        "3",
        f"curl -X POST /subscriptions/createsubscription {_JSON}"
        """ -d '{"url": "https://webhook.site/your-unique-id", "secret": "helloworld"}'""",
        201,
        {"id", "url", "created_at", "has_secret"},
    ),
    Example("3", "curl /subscriptions/getsubscriptions", 200, ["id", "url", "has_secret", "created_at"]),
    Example("3", f"curl -X POST /ingest/{{SUBSCRIPTION}} {_JSON} {_SIGNED_3} -v", 202, _ACCEPTED),
    Example(
        "3",
        "curl /logs/deliverylogs",
        200,
        ["id", "webhook_id", "attempt_number", "status", "response_code", "timestamp"],
    ),
    Example(
        "3",
        f"curl -X PUT /subscriptions/updatesubscription {_JSON}"
        """ -d '{"id":"{SUBSCRIPTION}","url":"https://example.com/other","secret":"new"}'""",
        200,
        {"message", "data"},
    ),
    Example("3", "curl /ping", 200, {"message", "database"}),
    Example("3", "curl /api/docs/", 307, ""),
    Example(
        "3",
        f'curl -X DELETE /subscriptions/deletesubscription {_JSON} -d \'{{"id":"{{SUBSCRIPTION}}"}}\'',
        200,
        {"message"},
    ),
    Example("3", f"curl -X DELETE /subscriptions/deletesubscription {_JSON} -d '{{}}'", 400, _PROBLEM),
    Example("3", f"curl -X DELETE /subscriptions/deletesubscription {_JSON} -d '{{\"id\":1}}'", 404, _PROBLEM),
    Example(
        "4",
        f"""curl -X POST '/subscriptions/' {_ACCEPT} -H 'Content-Type: application/json' -d '{{
  "target_url": "http://your-webhook-receiver.com/endpoint",
  "secret": "your_secure_secret_key",
  "event_types": ["order.created", "user.updated"]
}}'""",
        201,
        _SUBSCRIPTION,
    ),
    Example("4", f"curl -X GET '/subscriptions/' {_ACCEPT}", 200, _LISTED),
    Example("4", f"curl -X GET '/subscriptions/{{SUBSCRIPTION}}' {_ACCEPT}", 200, _SUBSCRIPTION),
    Example(
        "4",
        f"""curl -X PUT '/subscriptions/{{SUBSCRIPTION}}' {_ACCEPT} -H 'Content-Type: application/json' -d '{{
  "target_url": "http://updated-receiver.com/new-endpoint",
  "secret": "updated_secret",
  "event_types": ["product.deleted"]
}}'""",
        200,
        _SUBSCRIPTION,
    ),
    Example(
        "4",
        f"curl -X POST '/ingest/{{SUBSCRIPTION}}' {_ACCEPT} -H 'X-Hub-Signature-256: sha256={{SIGNATURE}}'"
        f" -H 'Content-Type: application/json' {_PAYLOAD_4}",
        202,
        _FILTERED,
    ),
    Example(
        "4",
        f"curl -X POST '/ingest/{{SUBSCRIPTION}}' {_ACCEPT} -H 'X-Hub-Signature-256: sha256={{SIGNATURE}}'"
        f" -H 'Content-Type: application/json' {_PAYLOAD_4.replace('user.created', 'product.deleted')}",
        202,
        _ACCEPTED,
    ),
    Example("4", f"curl -X GET '/status/{{WEBHOOK}}' {_ACCEPT}", 200, _STATUS),
    Example("4", f"curl -X GET '/subscriptions/{{SUBSCRIPTION}}/logs?limit=20' {_ACCEPT}", 200, _LOGS),
    Example("4", f"curl -X GET '/logs/?skip=0&limit=100' {_ACCEPT}", 200, _LOGS),
    Example("4", f"curl -X DELETE '/subscriptions/{{SUBSCRIPTION}}' {_ACCEPT}", 204, ""),
]


def keys_of(shape: Any) -> set[str]:
    """The keys that the answer must have."""
    return set(shape)
