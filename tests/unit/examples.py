"""A subscription and a delivery to start from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared.records import Delivery, Source
from shared.subscriptions import Subscription
from shared.topics import Topics

TOPICS = Topics("webhooks.")
NOW_MS = 1_700_000_000_123
AT = datetime(2026, 1, 1, tzinfo=UTC)


def subscription(**changes: Any) -> Subscription:
    values: dict[str, Any] = {
        "id": "0193c6f0-0000-7000-8000-000000000001",
        "tenant": "default",
        "target_url": "https://example.com/hook",
        "status": "active",
        "event_types": (),
        "description": None,
        "secret": None,
        "signing_keys": (b"k" * 24,),
        "headers": (),
        "timeout_seconds": None,
        "retry_delays": None,
        "created_at": AT,
        "updated_at": AT,
        "version": 1,
    }
    return Subscription(**(values | changes))


def delivery(**changes: Any) -> Delivery:
    values: dict[str, Any] = {
        "webhook_id": "0193c6f0-0000-7000-8000-0000000000aa",
        "subscription_id": "0193c6f0-0000-7000-8000-000000000001",
        "payload": b'{"a":1}',
        "accepted_ms": NOW_MS - 1000,
        "event_type": "order.paid",
        "content_type": "application/json",
        "source": Source("webhooks.deliveries", 3, 77),
    }
    return Delivery(**(values | changes))
