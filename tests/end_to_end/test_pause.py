"""Pause, resume and delete, through all processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shared.database import Database
from shared.encryption import Cipher
from shared.subscriptions import SubscriptionStore
from shared.topics import home_partition
from tests.eventually import eventually
from tests.receiver import Receiver
from tests.system import System


async def paused(system: System, target_url: str, **fields: Any) -> str:
    """A subscription whose events are parked from now on: every process knows that it is paused."""
    created = await system.subscribe(target_url, **fields)
    await act(system, created["id"], "pause")
    while (await _probe(system, created["id"])) != "paused":
        pass
    return str(created["id"])


async def act(system: System, subscription_id: str, action: str) -> dict[str, Any]:
    answer = await system.api.post(f"/subscriptions/{subscription_id}/{action}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def until_parked(system: System, subscription_id: str, count: int) -> None:
    async def seen() -> bool:
        shown = (await system.api.get(f"/subscriptions/{subscription_id}")).json()
        return bool(shown["parked"] == count)

    await eventually(seen, within_s=30)


async def _probe(system: System, subscription_id: str) -> str:
    """Where one event ends: delivered by a worker that has not heard of the pause, or parked."""
    webhook_id = await system.ingest(subscription_id, b'"probe"')

    async def settled() -> str:
        status = str((await system.status(webhook_id))["status"])
        return status if status in ("paused", "succeeded") else ""

    return str(await eventually(settled, within_s=30))


async def test_fifty_events_of_a_pause_arrive_after_it_in_order_and_once(system: System, receiver: Receiver) -> None:
    one = await paused(system, receiver.url + "/fifty")
    probes = len(receiver.of("/fifty"))
    ids = [await system.ingest(one, b'{"n": %d}' % n) for n in range(50)]
    assert (await system.status_when(ids[-1], "paused"))["latest_attempt"] is None
    await until_parked(system, one, 51)
    # One after the other: so the receiver sees the order in which they leave.
    await system.api.patch(f"/subscriptions/{one}", json={"rate_limit": 4, "max_in_flight": 1})

    assert (await act(system, one, "resume"))["status"] == "active"

    last = await system.status_when(ids[-1], "succeeded", within_s=60)
    arrived = [arrival.headers["webhook-id"] for arrival in receiver.of("/fifty")[probes:]]
    assert arrived[1:] == ids, "the first is the probe that was parked"
    assert [note["kind"] for note in last["notes"]] == ["parked", "resumed"]
    assert [attempt["attempt_number"] for attempt in last["attempts"]] == [1]
    await until_parked(system, one, 0)


async def test_of_two_in_one_partition_only_the_resumed_one_is_delivered(system: System, receiver: Receiver) -> None:
    partitions: dict[int, list[str]] = {}
    home: list[str] = []
    while not home:
        created = await system.subscribe(receiver.url + "/two")
        same = partitions.setdefault(_home(system, created["id"]), [])
        same.append(created["id"])
        home = same if len(same) == 2 else []
    for one in home:
        await act(system, one, "pause")
        while (await _probe(system, one)) != "paused":
            pass
    before = len(receiver.of("/two"))
    for number in range(20):
        for one in home:
            await system.ingest(one, b'{"n": %d}' % number)
    await until_parked(system, home[0], 21)
    await until_parked(system, home[1], 21)

    await act(system, home[0], "resume")
    await until_parked(system, home[0], 0)
    await receiver.wait_for(before + 21, "/two", timeout_s=30)
    await until_parked(system, home[1], 21)
    assert len(receiver.of("/two")) == before + 21

    await act(system, home[1], "resume")
    await receiver.wait_for(before + 42, "/two", timeout_s=30)
    await until_parked(system, home[1], 0)
    counts = Counter(arrival.headers["webhook-id"] for arrival in receiver.of("/two"))
    assert max(counts.values()) == 1


async def test_what_is_parked_for_a_deleted_subscription_ends_as_cancelled_with_a_reason(
    system: System, receiver: Receiver
) -> None:
    one = await paused(system, receiver.url + "/deleted")
    before = len(receiver.of("/deleted"))
    ids = [await system.ingest(one, b'{"n": %d}' % n) for n in range(10)]
    await until_parked(system, one, 11)
    assert (await system.api.delete(f"/subscriptions/{one}")).status_code == 204
    for webhook_id in ids:
        found = await system.status_when(webhook_id, "cancelled")
        assert found["reason"] == "subscription deleted"
    assert len(receiver.of("/deleted")) == before


async def test_a_disabled_subscription_keeps_its_events_and_resume_enables_it(
    system: System, receiver: Receiver
) -> None:
    """Nothing but a receiver disables one; here it is the store."""
    created = await system.subscribe(receiver.url + "/disabled")
    database = Database(system.settings.database_url.get_secret_value())
    SubscriptionStore(database, Cipher(system.settings.encryption_key.get_secret_value())).set_status(
        created["id"], "disabled"
    )
    database.close()
    while (await _probe(system, created["id"])) != "paused":
        pass
    webhook_id = await system.ingest(created["id"], b"{}")
    await system.status_when(webhook_id, "paused")
    assert (await act(system, created["id"], "resume"))["status"] == "active"
    await system.status_when(webhook_id, "succeeded")


def _home(system: System, subscription_id: str) -> int:
    return home_partition(subscription_id, system.settings.partitions)
