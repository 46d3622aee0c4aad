"""Deliveries and attempts as rows of the attempt log, with the values that a test does not care for."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from shared.attempt_records import Attempt
from shared.attempt_rows import LogRow, row_of_attempt, row_of_delivery
from shared.clock import SystemClock
from shared.record_ids import new_webhook_id
from shared.records import Delivery, Source

SUBSCRIPTION = "0192c0de-0000-7000-8000-000000000001"
_offsets = itertools.count()


def now_ms() -> int:
    return SystemClock().now_ms()


def source(topic: str = "attempts") -> Source:
    return Source(topic, 0, next(_offsets))


def delivery(**changes: Any) -> Delivery:
    made = Delivery(new_webhook_id(), SUBSCRIPTION, b"{}", now_ms(), event_type="order.created", tenant="acme")
    return made.again(**changes)


def attempt(delivery: Delivery, number: int, outcome: Any = "failed_attempt", **changes: Any) -> Attempt:
    made = Attempt(
        kind="attempt" if outcome else "waiting",
        webhook_id=delivery.webhook_id,
        subscription_id=delivery.subscription_id,
        run=delivery.run,
        attempt=number,
        accepted_ms=delivery.accepted_ms,
        attempted_ms=delivery.accepted_ms + 1000 * number,
        tenant=delivery.tenant,
        event_type=delivery.event_type,
        target_url="https://example.com/hook",
        outcome=outcome,
        source="deliveries:3:42",
    )
    return replace(made, **changes)


def queued(delivery: Delivery) -> LogRow:
    row = row_of_delivery(delivery, source("deliveries"))
    assert row is not None
    return row


def tried(*args: Any, **changes: Any) -> LogRow:
    return row_of_attempt(attempt(*args, **changes), source())
