"""Events for whoever wants them, through all processes."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from shared.broker import client_options
from shared.database import Database
from shared.encryption import Cipher
from shared.record_ids import delivery_id, new_webhook_id
from shared.subscriptions import NewSubscription, SubscriptionStore
from tests.receiver import Receiver
from tests.system import System, read_topic


async def post(system: System, event_type: str, payload: bytes, tenant: str) -> str:
    body = b'{"event_type": "%s", "tenant": "%s", "payload": %s}' % (event_type.encode(), tenant.encode(), payload)
    answer = await system.api.post("/events", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["event_id"])


async def test_an_event_reaches_who_wants_it_and_nobody_else(system: System, receiver: Receiver) -> None:
    tenant, payload = new_webhook_id(), b'{"amount": 1.50,  "note": "\\u00e9"}'
    filters: list[dict[str, Any]] = [
        {"event_types": ["order.*"]},
        {"event_types": ["order.paid", "user.created"]},
        {},
        {"event_types": ["order"]},
        {"event_types": ["user.*"]},
    ]
    made = [await system.subscribe(f"{receiver.url}/fan/{n}", tenant=tenant, **one) for n, one in enumerate(filters)]
    await system.subscribe(f"{receiver.url}/fan/stranger", tenant=new_webhook_id())
    event_id = await post(system, "order.paid", payload, tenant)

    found = await system.status_when(event_id, "succeeded")
    wanting = [one["id"] for one in made[:3]]
    assert (found["matched"], found["delivery_counts"], found["tenant"]) == (3, {"succeeded": 3}, tenant)
    assert {one["subscription_id"]: one["id"] for one in found["deliveries"]} == {
        one: delivery_id(event_id, one) for one in wanting
    }
    for number in range(3):
        (arrival,) = await receiver.wait_for(1, f"/fan/{number}")
        assert arrival.body == payload
        assert arrival.headers["webhook-id"] == delivery_id(event_id, wanting[number])
        assert (arrival.headers["x-event-type"], arrival.headers["content-type"]) == ("order.paid", "application/json")
    assert {arrival.path for arrival in receiver.arrivals if arrival.path.startswith("/fan/")} == {
        "/fan/0",
        "/fan/1",
        "/fan/2",
    }
    one = await system.status_when(found["deliveries"][0]["id"], "succeeded")
    assert one["status"] == "succeeded"


async def test_an_event_nobody_wants_is_seen_as_such(system: System, receiver: Receiver) -> None:
    tenant = new_webhook_id()
    await system.subscribe(f"{receiver.url}/picky", tenant=tenant, event_types=["user.*"])
    event_id = await post(system, "order.paid", b"{}", tenant)
    found = await system.status_when(event_id, "cancelled")
    assert (found["reason"], found["matched"], found["deliveries"]) == ("unmatched", 0, [])
    records = await read_topic(system.settings, system.settings.topics.attempts)
    assert any(event_id.encode() in record.value and b'"unmatched"' in record.value for record in records)
    assert receiver.of("/picky") == []


async def test_a_paused_subscription_keeps_its_events(system: System, receiver: Receiver) -> None:
    tenant = new_webhook_id()
    created = await system.subscribe(f"{receiver.url}/resting", tenant=tenant)
    await system.subscribe(f"{receiver.url}/awake", tenant=tenant)
    database = Database(system.settings.database_url.get_secret_value())
    store = SubscriptionStore(database, Cipher(system.settings.encryption_key.get_secret_value()))
    await asyncio.to_thread(store.set_status, created["id"], "paused")
    database.close()
    event_id = await post(system, "order.paid", b"{}", tenant)
    await receiver.wait_for(1, "/awake")
    found = await system.status_when(event_id, "paused")
    assert (found["matched"], found["delivery_counts"]) == (2, {"paused": 1, "succeeded": 1})
    assert receiver.of("/resting") == []


async def test_an_event_right_after_a_subscription_was_made_reaches_it(system: System, receiver: Receiver) -> None:
    tenant = new_webhook_id()
    for number in range(5):
        await system.subscribe(f"{receiver.url}/new/{number}", tenant=tenant)
        event_id = await post(system, "order.paid", b"{}", tenant)
        assert (await system.status_when(event_id, "succeeded"))["matched"] == number + 1


async def test_events_of_plain_clients_are_fanned_out_and_what_is_none_is_buried(
    system: System, receiver: Receiver
) -> None:
    tenant, topics = new_webhook_id(), system.settings.topics
    await system.subscribe(f"{receiver.url}/from-a-client", tenant=tenant)
    producer = AIOKafkaProducer(**client_options(system.settings))
    await producer.start()
    mark = tenant.encode()
    await producer.send_and_wait(topics.events, None, mark, 0)
    await producer.send_and_wait(topics.events, b"bare", None, 0, headers=[("tenant", mark)])
    await producer.stop()
    (arrival,) = await receiver.wait_for(1, "/from-a-client")
    assert arrival.body == b"bare"
    dead = [record for record in await read_topic(system.settings, topics.dead_letter) if record.key == mark]
    assert [dict(record.headers)["reason"] for record in dead] == [b"null value"]


async def test_one_event_reaches_a_thousand_subscriptions(system: System, receiver: Receiver) -> None:
    tenant = new_webhook_id()
    database = Database(system.settings.database_url.get_secret_value())
    store = SubscriptionStore(database, Cipher(system.settings.encryption_key.get_secret_value()))
    new = NewSubscription(f"{receiver.url}/thousand", tenant=tenant)
    ids = {(await asyncio.to_thread(store.create, new)).subscription.id for _ in range(1000)}
    database.close()
    event_id = await post(system, "order.paid", b'{"to": "all"}', tenant)
    arrivals = await receiver.wait_for(1000, "/thousand", timeout_s=60)
    assert {arrival.headers["webhook-id"] for arrival in arrivals} == {delivery_id(event_id, one) for one in ids}
    found = await system.status_when(event_id, "succeeded")
    assert (found["matched"], found["delivery_counts"], len(found["deliveries"])) == (1000, {"succeeded": 1000}, 100)
