"""kill -9 of the scheduler in the middle of a resume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from shared.kafka import ensure_topics
from shared.records import Source, delivery_from_record
from shared.settings import Settings
from tests.conftest import FreshSettings
from tests.eventually import eventually
from tests.faults.form import LONG
from tests.receiver import Receiver
from tests.system import SCHEDULER, System, read_topic

EVENTS = 400 if LONG else 240
RATE = 50


async def test_a_scheduler_killed_in_a_resume_goes_on_from_its_cursor_and_the_stream_drops_what_comes_twice(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    settings = fresh_settings(data_dir=tmp_path)
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings) as system:
        one = (await system.subscribe(receiver.url, rate_limit=RATE))["id"]
        assert (await system.api.post(f"/subscriptions/{one}/pause")).status_code == 200
        accepted = await system.ingest_many((one, b'{"n": %d}' % n) for n in range(EVENTS))
        # A worker that had not heard of the pause delivered the first ones.
        at_once = await _until_parked_or_arrived(system, receiver, one)
        assert at_once < EVENTS / 2

        assert (await system.api.post(f"/subscriptions/{one}/resume")).status_code == 200
        await receiver.wait_for(at_once + 60, timeout_s=30)
        system.kill(SCHEDULER)
        await system.ended(SCHEDULER)
        arrived_at_kill = len(receiver.arrivals)
        system.start(SCHEDULER)
        await receiver.wait_for(EVENTS, timeout_s=60)
        await eventually(lambda: _parked(system, one, 0), within_s=30)

        counts = Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals)
        repeated = await _published_again(settings)
        print(f"{EVENTS} accepted, {at_once} before the pause, {arrived_at_kill} arrived at the kill")
        print(f"arrived {len(counts)}, twice {sum(counts.values()) - len(counts)}, published twice {repeated}")
        assert arrived_at_kill < EVENTS
        assert set(counts) == set(accepted)
        assert max(counts.values()) == 1
        assert repeated <= RATE, "the step that was under way"


async def _until_parked_or_arrived(system: System, receiver: Receiver, subscription_id: str) -> int:
    await eventually(lambda: _parked(system, subscription_id, EVENTS - len(receiver.arrivals)), within_s=60)
    return len(receiver.arrivals)


async def _published_again(settings: Settings) -> int:
    """Records of the job that are there already. One that its lane put off has other waits."""
    found = []
    for record in await read_topic(settings, settings.topics.deliveries):
        source = Source(record.topic, record.partition, record.offset)
        delivery = delivery_from_record(source, record.value, record.headers, record.timestamp)
        if delivery.paused_ms:
            found.append((delivery.webhook_id, delivery.attempt, delivery.waits))
    return len(found) - len(set(found))


async def _parked(system: System, subscription_id: str, count: int) -> bool:
    shown = (await system.api.get(f"/subscriptions/{subscription_id}")).json()
    return bool(shown["parked"] == count)
