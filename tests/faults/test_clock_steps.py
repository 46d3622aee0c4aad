"""The wall clock of one process is set forward or back by an hour while work is pending, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from delivery_stream.attempt_sink import AttemptSink
from retry_scheduler.janitor import Janitor, StillNeeded
from shared.attempt_log import AttemptLog
from shared.clock import SystemClock
from shared.database import Database
from shared.kafka import Producer, ensure_topics
from shared.record_ids import new_webhook_id
from shared.records import Delivery
from shared.settings import Settings
from tests.conftest import FreshSettings, delete_topics
from tests.contract.test_retry_scheduler import forwarding, found, retries, tier_records, until
from tests.eventually import eventually
from tests.system import read_topic

HOUR_MS = 3_600_000
TIER_S, LONG_TIER_S = 3, 7_200
COUNT = 40


class SteppedClock(SystemClock):
    """The machine's, and as many milliseconds ahead as somebody has set it."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@pytest.fixture
async def tiers(fresh_settings: FreshSettings) -> AsyncIterator[Settings]:
    """Settings with a tier of seconds and one of hours."""
    settings = fresh_settings(retry_delays=f"{TIER_S}s,{LONG_TIER_S}s")
    await ensure_topics(settings)
    yield settings
    await delete_topics(settings)


@pytest.fixture
async def producer(tiers: Settings) -> AsyncIterator[Producer]:
    made = Producer(tiers)
    await made.start()
    yield made
    await made.stop()


async def waited_ms(settings: Settings, tier_s: int) -> list[int]:
    """How long each record of the tier that came to `deliveries` had been in it, by the broker's clock."""
    begun = {record.value: record.timestamp for record in await read_topic(settings, settings.topics.tier(tier_s))}
    forwarded = await read_topic(settings, settings.topics.deliveries)
    return [record.timestamp - begun[record.value] for record in forwarded if record.value in begun]


async def test_a_clock_set_back_keeps_no_retry_for_the_hour_and_sends_none_early(
    tiers: Settings, producer: Producer
) -> None:
    clock = SteppedClock()
    async with forwarding(tiers, producer, clock=clock) as forwarder:
        await producer.send_all(tier_records(tiers, TIER_S, retries(COUNT)))
        await until(lambda: forwarder._due.held == COUNT, lambda: forwarder._due.held)
        clock.ahead_ms = -HOUR_MS
        await producer.send_all(tier_records(tiers, TIER_S, retries(COUNT, COUNT)))
        await found(tiers, tiers.topics.deliveries, 2 * COUNT)
    waits = await waited_ms(tiers, TIER_S)
    print(f"clock set back: {len(waits)} of {2 * COUNT} went after {min(waits)} to {max(waits)} ms, due after 3000")
    assert len(waits) == 2 * COUNT
    assert min(waits) >= TIER_S * 1000
    # The delay again, a sleep of the scheduler, and what a loaded machine takes.
    assert max(waits) <= 2 * TIER_S * 1000 + 7_000


@pytest.mark.long_form
async def test_a_clock_set_forward_shortens_waits_by_its_step_and_back_again_all_is_as_before(
    tiers: Settings, producer: Producer
) -> None:
    clock = SteppedClock()
    async with forwarding(tiers, producer, clock=clock):
        await producer.send_all(tier_records(tiers, LONG_TIER_S, retries(COUNT, 1_000)))
        clock.ahead_ms = HOUR_MS
        await producer.send_all(tier_records(tiers, TIER_S, retries(COUNT)))
        await found(tiers, tiers.topics.deliveries, COUNT)
        clock.ahead_ms = 0
        await producer.send_all(tier_records(tiers, TIER_S, retries(COUNT, COUNT)))
        await found(tiers, tiers.topics.deliveries, 2 * COUNT)
    assert await waited_ms(tiers, LONG_TIER_S) == [], "2 h are not over within 1 h"
    waits = await waited_ms(tiers, TIER_S)
    print(f"clock set forward and back: {len(waits)} of {2 * COUNT} went after {min(waits)} to {max(waits)} ms")
    assert len(waits) == 2 * COUNT
    assert max(waits) <= 2 * TIER_S * 1000 + 7_000
    assert sorted(waits)[COUNT] >= TIER_S * 1000, "after the step they wait in full"


async def nothing_needed() -> StillNeeded:
    return {}


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS])
async def test_the_janitor_deletes_nothing_that_is_not_done_whatever_its_clock(
    tiers: Settings, producer: Producer, ahead_ms: int
) -> None:
    settings, clock = tiers.model_copy(update={"log_retention_hours": 0.001}), SteppedClock()
    clock.ahead_ms = ahead_ms
    janitor = Janitor(settings, nothing_needed, clock=clock)
    async with forwarding(settings, producer):
        await producer.send_all(tier_records(settings, TIER_S, retries(COUNT)))
        await producer.send_all(tier_records(settings, LONG_TIER_S, retries(COUNT, COUNT)))
        await found(settings, settings.topics.deliveries, COUNT)
    deleted = {partition.topic for partition in await janitor.sweep()}
    assert deleted == ({settings.topics.tier(TIER_S)} if ahead_ms > 0 else set()), "what is done, and nothing else"
    assert len(await read_topic(settings, settings.topics.tier(LONG_TIER_S))) == COUNT
    assert len(await read_topic(settings, settings.topics.deliveries)) == COUNT


@asynccontextmanager
async def sinking(settings: Settings, producer: Producer, clock: SteppedClock) -> AsyncIterator[AttemptSink]:
    sink, stop = AttemptSink(settings, producer, clock=clock), asyncio.Event()
    running = asyncio.create_task(sink.run(stop))
    try:
        yield sink
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await running


@pytest.mark.long_form
async def test_a_sink_whose_clock_is_set_writes_on_and_takes_no_word_back(tiers: Settings, producer: Producer) -> None:
    database, clock = Database(tiers.database_url.get_secret_value()), SteppedClock()
    attempt_log, reached_ms = AttemptLog(database, tiers.topics), [0]
    try:
        async with sinking(tiers, producer, clock):
            for ahead_ms in (0, HOUR_MS, 0, -HOUR_MS):
                clock.ahead_ms = ahead_ms
                delivery = Delivery(new_webhook_id(), new_webhook_id(), b"{}", clock.now_ms())
                await producer.send(delivery.to_record(tiers.topics.deliveries))
                await eventually(partial(_known, attempt_log, delivery.webhook_id), within_s=20)
                await asyncio.sleep(1.5)  # the sink's own look at the ends, with this clock
                reached_ms.append(await asyncio.to_thread(attempt_log.watermark_ms))
        assert reached_ms == sorted(reached_ms)
        assert 0 < reached_ms[-1] <= SystemClock().now_ms(), "it has moved, and into no time that has not come"
    finally:
        database.close()


async def _known(attempt_log: AttemptLog, webhook_id: str) -> bool:
    return await asyncio.to_thread(attempt_log.delivery, webhook_id) is not None
