"""A subscription, a delivery and what delivering takes, to start from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from delivery_stream.deliver import DeliverIO, Knows, Sends
from shared.clock import SystemClock
from shared.records import Delivery, Source
from shared.subscriptions import Subscription
from shared.topics import RetrySchedule, Topics

TOPICS = Topics("webhooks.")
NOW_MS = 1_700_000_000_123
AT = datetime(2026, 1, 1, tzinfo=UTC)


class At(SystemClock):
    """Always the same time."""

    def now_ms(self) -> int:
        return NOW_MS


def deliver_io(publish: Any, *, subscriptions: Knows | None = None, sender: Sends | None = None) -> DeliverIO:
    """What is not given is not to be asked."""
    return DeliverIO(
        subscriptions=cast(Knows, subscriptions),
        sender=cast(Sends, sender),
        publish=publish,
        clock=At(),
        topics=TOPICS,
        schedule=RetrySchedule((10,)),
        timeout_s=10,
        max_event_age_s=3600,
    )


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
