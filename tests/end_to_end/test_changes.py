"""A subscription that changes while events are under way: rotation, samples, pause."""

from __future__ import annotations

import asyncio
import json

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.end_to_end.test_pipeline import headers_of
from tests.receiver import Receiver
from tests.system import System, read_topic

_SEEN_S = 1.0  # CONTRACT section 3


async def test_a_sample_arrives_signed_whatever_the_filter_says(system: System, receiver: Receiver) -> None:
    subscription = await system.subscribe(receiver.url + "/sample", event_types=["order.*"])
    answer = await system.api.post(f"/subscriptions/{subscription['id']}/test")
    assert answer.status_code == 202

    (arrival,) = await receiver.wait_for(1, "/sample")
    await system.status_when(answer.json()["webhook_id"], "succeeded")

    assert arrival.headers["x-event-type"] == json.loads(arrival.body)["event_type"] == "hooklog.test"
    assert arrival.headers["webhook-id"] == answer.json()["webhook_id"]
    Webhook(subscription["signing_secret"]).verify(arrival.body, dict(arrival.headers))


async def test_both_keys_sign_until_the_old_one_ends(system: System, receiver: Receiver) -> None:
    """The stream knows the subscription from its first delivery on: it must see each change."""
    subscription = await system.subscribe(receiver.url + "/rotated")
    path = f"/subscriptions/{subscription['id']}"
    await system.api.post(f"{path}/test")
    await receiver.wait_for(1, "/rotated")

    rotated = await system.api.post(f"{path}/rotate-secret", json={"overlap_seconds": 3})
    assert rotated.status_code == 200, rotated.text
    old, new = Webhook(subscription["signing_secret"]), Webhook(rotated.json()["signing_secret"])
    await asyncio.sleep(_SEEN_S)
    await system.api.post(f"{path}/test")
    both = (await receiver.wait_for(2, "/rotated"))[1]
    assert len(both.headers["webhook-signature"].split()) == 2
    old.verify(both.body, dict(both.headers))
    new.verify(both.body, dict(both.headers))

    await asyncio.sleep(3)
    await system.api.post(f"{path}/test")
    alone = (await receiver.wait_for(3, "/rotated"))[2]
    new.verify(alone.body, dict(alone.headers))
    with pytest.raises(WebhookVerificationError):
        old.verify(alone.body, dict(alone.headers))


async def test_a_paused_subscriptions_event_is_kept_and_a_resumed_ones_is_delivered(
    system: System, receiver: Receiver
) -> None:
    subscription = await system.subscribe(receiver.url + "/paused")
    path = f"/subscriptions/{subscription['id']}"
    assert (await system.api.post(f"{path}/pause")).json()["status"] == "paused"
    await asyncio.sleep(_SEEN_S)
    kept_id = await system.ingest(subscription["id"], b'{"kept": true}')
    await system.status_when(kept_id, "paused")
    parked = await read_topic(system.settings, system.settings.topics.parked)
    assert kept_id in [headers_of(record)["webhook-id"] for record in parked]

    assert (await system.api.post(f"{path}/resume")).json()["status"] == "active"
    await asyncio.sleep(_SEEN_S)
    delivered_id = await system.ingest(subscription["id"], b'{"kept": false}')
    await system.status_when(delivered_id, "succeeded")
    assert [arrival.body for arrival in receiver.of("/paused")] == [b'{"kept": false}']


async def test_a_changed_target_is_the_one_that_is_called(system: System, receiver: Receiver) -> None:
    receiver.script("/before", 500)
    subscription = await system.subscribe(receiver.url + "/before")
    webhook_id = await system.ingest(subscription["id"], b'{"n": 1}')
    await receiver.wait_for(1, "/before")
    changed = {"target_url": receiver.url + "/after", "headers": {"X-Key": "given-later"}}
    assert (await system.api.patch(f"/subscriptions/{subscription['id']}", json=changed)).status_code == 200
    (arrival,) = await receiver.wait_for(1, "/after")
    assert (arrival.headers["x-key"], arrival.headers["webhook-id"]) == ("given-later", webhook_id)
    await system.status_when(webhook_id, "succeeded")
