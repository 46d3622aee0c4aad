"""A signed event through all processes: delivered, retried, dead-lettered, refused."""

from __future__ import annotations

import hashlib
import hmac

from aiokafka import ConsumerRecord
from standardwebhooks import Webhook

from tests.receiver import Receiver
from tests.system import System, read_topic

SECRET = "it is a secret"


def headers_of(record: ConsumerRecord) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in record.headers}


async def test_a_signed_event_arrives_unchanged_and_its_signature_verifies(system: System, receiver: Receiver) -> None:
    body = b'{"type":"order.paid",  "amount": 12.50, "note": "\xc3\xa9\\u00e9"}\n'
    subscription = await system.subscribe(receiver.url + "/paid", secret=SECRET)
    webhook_id = await system.ingest(subscription["id"], body, SECRET)

    (arrival,) = await receiver.wait_for(1, "/paid")
    found = await system.status_when(webhook_id, "succeeded")

    assert arrival.body == body
    assert arrival.method == "POST"
    assert arrival.headers["content-type"] == "application/json"
    assert arrival.headers["webhook-id"] == arrival.headers["x-webhook-id"] == webhook_id
    assert arrival.headers["x-webhook-attempt"] == "1"
    assert arrival.headers["x-event-type"] == "order.paid"
    assert arrival.headers["user-agent"].startswith("Hooklog/")
    assert arrival.headers["host"] == f"127.0.0.1:{receiver.port}"
    Webhook(subscription["signing_secret"]).verify(arrival.body, dict(arrival.headers))
    expected = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert arrival.headers["x-hub-signature-256"] == expected

    assert found["subscription_id"] == subscription["id"]
    assert found["event_type"] == "order.paid"
    (attempt,) = found["attempts"]
    assert attempt["outcome"] == "succeeded"
    assert attempt["http_status_code"] == 200
    assert attempt["attempt_number"] == found["latest_attempt"]["attempt_number"] == 1


async def test_a_receiver_that_fails_twice_gets_it_a_third_time_never_early(system: System, receiver: Receiver) -> None:
    receiver.script("/twice", 500, 503, 200)
    subscription = await system.subscribe(receiver.url + "/twice")
    webhook_id = await system.ingest(subscription["id"], b'{"n": 1}')

    first, second, third = await receiver.wait_for(3, "/twice", timeout_s=20)
    found = await system.status_when(webhook_id, "succeeded")

    assert second.at_s - first.at_s >= 1
    assert third.at_s - second.at_s >= 2
    assert [arrival.headers["x-webhook-attempt"] for arrival in (first, second, third)] == ["1", "2", "3"]
    assert len({arrival.headers["webhook-id"] for arrival in (first, second, third)}) == 1
    outcomes = [attempt["outcome"] for attempt in sorted(found["attempts"], key=lambda a: a["attempt_number"])]
    assert outcomes == ["failed_attempt", "failed_attempt", "succeeded"]

    logs = (await system.api.get(f"/subscriptions/{subscription['id']}/logs")).json()
    assert [row["attempt_number"] for row in logs] == [3, 2, 1]


async def test_a_receiver_that_never_succeeds_ends_in_a_dead_letter_anyone_can_read(
    system: System, receiver: Receiver
) -> None:
    receiver.script("/never", 500)
    subscription = await system.subscribe(receiver.url + "/never")
    webhook_id = await system.ingest(subscription["id"], b'{"n": 2}', **{"X-Event-Type": "n.two"})

    found = await system.status_when(webhook_id, "failed")

    assert [row["outcome"] for row in found["attempts"]].count("failed_attempt") == 2
    assert found["latest_attempt"]["outcome"] == "permanently_failed"
    assert len(receiver.of("/never")) == 3
    dead = [r for r in await read_topic(system.settings, system.settings.topics.dead_letter) if r.value == b'{"n": 2}']
    assert len(dead) == 1
    headers = headers_of(dead[0])
    assert dead[0].key == subscription["id"].encode()
    assert headers["webhook-id"] == webhook_id
    assert headers["reason"] == "exhausted"
    assert headers["last-status"] == "500"
    assert headers["attempt"] == "3"
    assert headers["event-type"] == "n.two"
    assert headers["source"].startswith(system.settings.topics.deliveries + ":")


async def test_a_wrong_signature_is_refused_and_nothing_is_produced(system: System, receiver: Receiver) -> None:
    subscription = await system.subscribe(receiver.url + "/signed", secret=SECRET)
    body = b'{"forged": true}'
    wrong = {"Content-Type": "application/json", "X-Hub-Signature-256": "sha256=" + "0" * 64}
    answer = await system.api.post(f"/ingest/{subscription['id']}", content=body, headers=wrong)
    assert answer.status_code == 401

    # A later good one shows that the forged one does not arrive.
    await system.ingest(subscription["id"], b'{"forged": false}', SECRET)
    (arrival,) = await receiver.wait_for(1, "/signed")
    assert arrival.body == b'{"forged": false}'
    assert all(record.value != body for record in await read_topic(system.settings, system.settings.topics.deliveries))


async def test_a_receiver_that_is_not_there_is_retried_with_the_reason_shown(
    system: System, receiver: Receiver
) -> None:
    gone = Receiver()
    await gone.start()
    await gone.stop()
    subscription = await system.subscribe(gone.url + "/later")
    webhook_id = await system.ingest(subscription["id"], b"{}")
    found = await system.status_when(webhook_id, "retrying")
    assert found["latest_attempt"]["outcome"] == "failed_attempt"
    assert "connect_failed" in str(found["latest_attempt"])
    await gone.start()
    await gone.wait_for(1, "/later", timeout_s=15)
    await gone.stop()
    await system.status_when(webhook_id, "succeeded")


async def test_a_deleted_subscriptions_queued_event_ends_cancelled(system: System, receiver: Receiver) -> None:
    receiver.script("/deleted", 500)
    subscription = await system.subscribe(receiver.url + "/deleted")
    webhook_id = await system.ingest(subscription["id"], b'{"n": 3}')
    await receiver.wait_for(1, "/deleted")
    assert (await system.api.delete(f"/subscriptions/{subscription['id']}")).status_code == 204
    found = await system.status_when(webhook_id, "cancelled")
    assert len(receiver.of("/deleted")) <= 2
    assert "deleted" in str(found)
