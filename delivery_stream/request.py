"""Pure: the POST a receiver gets: which URL, which headers, over which bytes."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

from delivery_stream.decision import Refused
from shared.frozen import frozen
from shared.records import Delivery
from shared.signature import hub_signature, standard_signature
from shared.static_headers import check_static_header
from shared.subscriptions import Subscription

USER_AGENT = f"Hooklog/{version('hooklog')}"

_DEFAULT_CONTENT_TYPE = "application/octet-stream"
_VALUE_MAX_CHARS = 256
_STANDARD = "webhook-signature"
_HUB = "X-Hub-Signature-256"


@frozen
class Request:
    """One POST, before an address is chosen. The body is the delivery's payload, unchanged."""

    url: str
    headers: tuple[tuple[str, str], ...]

    @property
    def signatures(self) -> tuple[str, ...]:
        """What in those headers proves who we are: nobody else may come to see it."""
        found: list[str] = []
        for name, value in self.headers:
            if name == _STANDARD:
                found += [one.partition(",")[2] for one in value.split(" ")]
            elif name == _HUB:
                found.append(value.partition("=")[2])
        return tuple(found)


def build_request(delivery: Delivery, subscription: Subscription, now_ms: int) -> Request | Refused:
    """Standard Webhooks headers, the earlier systems' names beside them, and the subscription's own headers.

    The timestamp is this attempt's; the id is the same for every attempt. What foreign records brought is checked
    again: a value that is no printable ASCII does not become a header. So are the subscription's own headers, whoever
    wrote them into the table.
    """
    if wrong := _refused(subscription.headers):
        return Refused("bad_header", wrong)
    headers = [
        ("Content-Type", _printable_often(delivery.content_type) or _DEFAULT_CONTENT_TYPE),
        ("User-Agent", USER_AGENT),
        ("X-Webhook-Attempt", str(delivery.attempt)),
        ("X-Hooklog-Hops", str(delivery.hops + 1)),
    ]
    if webhook_id := _printable(delivery.webhook_id):
        timestamp_s = now_ms // 1000
        signature = standard_signature(
            subscription.signing_keys_at(now_ms),
            webhook_id,
            timestamp_s,
            delivery.payload,
            private_keys=subscription.private_keys_at(now_ms),
        )
        headers += [
            ("webhook-id", webhook_id),
            ("webhook-timestamp", str(timestamp_s)),
            (_STANDARD, signature),
            ("X-Webhook-Id", webhook_id),
        ]
    if subscription.secret:
        headers.append((_HUB, hub_signature(subscription.secret, delivery.payload)))
    if event_type := _printable_often(delivery.event_type):
        headers.append(("X-Event-Type", event_type))
    if traceparent := _printable(delivery.traceparent):
        headers.append(("traceparent", traceparent))
    return Request(subscription.target_url, (*headers, *subscription.headers))


@lru_cache(maxsize=4096)
def _refused(headers: tuple[tuple[str, str], ...]) -> str | None:
    """Why these headers may not go out; None: they may."""
    if len({name.lower() for name, _ in headers}) < len(headers):
        return "a header of the subscription is there twice"
    for name, value in headers:
        try:
            check_static_header(name, value)
        except ValueError as error:
            return f"the subscription {error}"
    return None


def _printable(text: str | None) -> str | None:
    fits = text and len(text) <= _VALUE_MAX_CHARS and text.isascii() and text.isprintable()
    return text if fits else None


#: For what is the same in thousands of requests.
_printable_often = lru_cache(maxsize=1024)(_printable)
