"""An endpoint that says it is gone: its subscription is disabled, and who asked to be told is told."""

from __future__ import annotations

import json
from typing import Any

from standardwebhooks import Webhook

from shared.record_ids import new_webhook_id
from tests.end_to_end.test_fan_out import post
from tests.end_to_end.test_pipeline import headers_of
from tests.eventually import eventually
from tests.receiver import Receiver
from tests.system import API, SCHEDULER, SINK, STREAM, System, read_topic


async def test_a_410_dead_letters_disables_and_is_told_to_those_who_named_it_and_nobody_else(
    system: System, receiver: Receiver
) -> None:
    tenant, receivers = new_webhook_id(), f"{receiver.url}/disabled"
    receiver.script("/disabled/gone", 410)
    gone = await system.subscribe(f"{receivers}/gone", tenant=tenant, event_types=["order.*", "hooklog.*"])
    named = await system.subscribe(f"{receivers}/named", tenant=tenant, event_types=["hooklog.subscription.disabled"])
    above = await system.subscribe(f"{receivers}/above", tenant=tenant, event_types=["hooklog.*"])
    await system.subscribe(f"{receivers}/unfiltered", tenant=tenant)
    await system.subscribe(f"{receivers}/stranger", tenant=new_webhook_id(), event_types=["hooklog.*"])
    before = await system.metrics(SINK)

    webhook_id = await system.ingest(gone["id"], b'{"type": "order.paid"}')
    failed = await system.status_when(webhook_id, "failed")
    assert failed["latest_attempt"]["http_status_code"] == 410
    [letter] = [
        headers_of(record)
        for record in await read_topic(system.settings, system.settings.topics.dead_letter)
        if headers_of(record)["webhook-id"] == webhook_id
    ]
    assert (letter["reason"], letter["last-status"]) == ("gone", "410")

    async def disabled() -> dict[str, Any] | None:
        found: dict[str, Any] = (await system.api.get(f"/subscriptions/{gone['id']}")).json()
        return found if found["status"] == "disabled" else None

    found = await eventually(disabled, within_s=30)
    assert found["disabled_reason"] == "gone"
    assert found["endpoint"]["last_failure_at"] == failed["latest_attempt"]["attempted_at"]

    for subscription, path in ((named, "/disabled/named"), (above, "/disabled/above")):
        (arrival,) = await receiver.wait_for(1, path, timeout_s=30)
        Webhook(subscription["signing_secret"]).verify(arrival.body, dict(arrival.headers))
        assert arrival.headers["x-event-type"] == "hooklog.subscription.disabled"
        data = json.loads(arrival.body)["data"]
        assert (data["subscription_id"], data["reason"], data["target_origin"]) == (gone["id"], "gone", receiver.url)
        assert data["last_attempt"]["webhook_id"] == webhook_id
    # What comes later and reaches them all shows what did not come before.
    later = await post(system, "order.paid", b"{}", tenant)
    await receiver.wait_for(1, "/disabled/unfiltered")
    counts = (await system.status_when(later, "paused"))["delivery_counts"]
    assert counts == {"succeeded": 1, "paused": 1}
    assert [one.headers["x-event-type"] for one in receiver.of("/disabled/unfiltered")] == ["order.paid"]
    assert len(receiver.of("/disabled/gone")) == 1
    assert receiver.of("/disabled/stranger") == []
    reason = 'hooklog_subscriptions_disabled_total{reason="gone"}'
    assert (await system.metrics(SINK))[reason] == before[reason] + 1


async def test_every_process_shows_what_it_counts(system: System, receiver: Receiver) -> None:
    """A failure and its retry: accepted, forwarded once, and in the attempt log."""
    receiver.script("/counted", 500, 200)
    before = {name: await system.metrics(name) for name in (API, STREAM, SCHEDULER, SINK)}
    subscription = await system.subscribe(f"{receiver.url}/counted")
    await system.status_when(await system.ingest(subscription["id"], b"{}"), "succeeded")

    async def grown(name: str, metric: str, by: float) -> bool:
        return (await system.metrics(name))[metric] >= before[name][metric] + by

    assert await grown(API, 'hooklog_events_total{result="accepted"}', 1)
    assert await grown(API, "hooklog_ack_seconds_count", 1)
    await eventually(lambda: grown(SCHEDULER, "hooklog_forwarded_records_total", 1), within_s=10)
    await eventually(lambda: grown(SINK, "hooklog_sink_records_total", 4), within_s=10)
    lag_s = (await system.metrics(SINK))["hooklog_sink_watermark_lag_seconds"]
    assert 0 <= lag_s < 60
    assert "hooklog_attempts_in_flight" in await system.metrics(STREAM)
