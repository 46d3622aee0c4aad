"""Records are deleted before they were read, and topics are deleted, under running processes: it is said, loudly."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import RecordsToDelete

from shared.broker import client_options
from shared.kafka import ensure_topics
from shared.record_ids import delivery_id
from shared.settings import Settings
from tests.eventually import eventually
from tests.faults.figures import Figures
from tests.kafka_admin import admin_of
from tests.own_stack import OwnStack
from tests.receiver import Arrival, Receiver
from tests.rows import rows
from tests.system import PROGRAMS, STREAM, System

COUNT = 80
FINE, FAILS = b"{}", b'{"fails":"once"}'


async def test_records_gone_under_a_running_stream_worker_are_told_of_everywhere_and_the_rest_is_delivered(
    own_stack: OwnStack, figures: Figures
) -> None:
    settings = await own_stack.fresh_settings()
    async with Receiver() as receiver, System(settings) as system:
        created = await system.subscribe(f"{receiver.url}/")
        before = await system.ingest_many([(created["id"], b"{}")] * COUNT)
        await receiver.wait_for(COUNT, timeout_s=30)
        system.kill(STREAM, signal.SIGSTOP)
        # What its fetch under way brings, a frozen process still gets; the next ones it does not.
        sent = [await system.ingest(created["id"], b"{}") for _ in range(COUNT)]
        partition, end = await fullest(settings)
        async with admin_of(settings) as admin:
            await admin.delete_records({partition: RecordsToDelete(before_offset=end - COUNT // 4)})
        system.kill(STREAM, signal.SIGCONT)
        began_s = time.monotonic()
        await eventually(lambda: _says(system, STREAM, "records_skipped"), within_s=30)
        told_s = time.monotonic() - began_s
        after = await system.ingest(created["id"], b"{}")
        await eventually(lambda: after in ids(receiver), within_s=30)
        skipped = (await system.metrics(STREAM))["hooklog_records_skipped_total"]
        missing = set(sent) - ids(receiver)
        await eventually(lambda: alarms(settings), within_s=15)
        line = f"records gone: told after {told_s:.1f} s, {skipped:.0f} skipped, {len(missing)} not delivered"
        print(line)
        figures.say(line)
        assert set(before) <= ids(receiver)
        assert 0 < skipped == len(missing) <= 3 * COUNT // 4
        assert await system.why_not(STREAM), "until somebody has looked at it"


@pytest.mark.long_form
@pytest.mark.parametrize("absent_s", [0, 20], ids=["at once", "later"])
@pytest.mark.parametrize("which", ["deliveries", "events", "attempts", "tier"])
async def test_a_topic_that_is_deleted_is_told_of_and_work_goes_on_when_it_is_there_again(
    own_stack: OwnStack, figures: Figures, which: str, absent_s: int
) -> None:
    settings = await own_stack.fresh_settings()
    topic = settings.topics.tier(1) if which == "tier" else getattr(settings.topics, which)
    async with Receiver() as receiver, System(settings) as system:
        await system.subscribe(f"{receiver.url}/ok", event_types=["one"])
        failing = await system.subscribe(f"{receiver.url}/fails", event_types=["one"])
        receiver.script("/fails", answer)
        for number in range(20):
            await published(system, FAILS if number < 2 else FINE)
        await receiver.wait_for(20 * 2 + 2, timeout_s=40)
        pids = {name: system.pid(name) for name in PROGRAMS}
        async with admin_of(settings) as admin:
            await admin.delete_topics([topic])
            while topic in await admin.list_topics():  # noqa: ASYNC110  nobody tells when it is gone
                await asyncio.sleep(0.02)
        answers, said = list[int](), dict[str, str]()
        ends_s = time.monotonic() + absent_s
        while time.monotonic() < ends_s:
            body = FINE if answers else FAILS
            answers += [await tried(system, path, body) for path in (f"/ingest/{failing['id']}", "/events")]
            for name in PROGRAMS:
                if why := await system.why_not(name):
                    said[name] = why
            assert [name for name in PROGRAMS if system.exit_code(name) is not None] == [], "nothing ends"
            await asyncio.sleep(0.5)
        for name, why in said.items():
            print(f"{topic} deleted: {name} says {why[:300]}")
        print(f"{topic} deleted: answers {sorted(set(answers))}")
        await ensure_topics(settings)
        began_s = time.monotonic()
        await eventually(lambda: all_work(system), within_s=60)
        ready_s = time.monotonic() - began_s
        retried = delivery_id(await published(system, FAILS), failing["id"])
        await eventually(lambda: len(attempts_of(receiver, retried)) == 2, within_s=60)
        await system.status_when(retried, "succeeded", within_s=30)
        line = (
            f"topic {which} deleted for {absent_s} s: answers {sorted(set(answers))}, not ready {sorted(said)}; "
            f"there again: ready after {ready_s:.1f} s, works after {time.monotonic() - began_s:.1f} s"
        )
        print(line)
        figures.say(line)
        assert {name: system.pid(name) for name in PROGRAMS} == pids
        if absent_s:
            assert any(topic in why for why in said.values()), "somebody says which topic it is"


async def all_work(system: System) -> bool:
    """All are ready, but for who says for good that he found another log."""
    return all([not (why := await system.why_not(name)) or "another log" in why for name in PROGRAMS])


def answer(arrival: Arrival) -> int:
    """Few fail, and once: whoever fails always would be left alone for longer and longer."""
    return 500 if arrival.body == FAILS and arrival.headers["x-webhook-attempt"] == "1" else 200


async def published(system: System, body: bytes) -> str:
    headers = {"X-Event-Type": "one", "Content-Type": "application/json"}
    answered = await system.api.post("/events", content=body, headers=headers)
    assert answered.status_code == 202, answered.text
    return str(answered.json()["event_id"])


async def tried(system: System, path: str, body: bytes) -> int:
    """The status of an answer; 0: none in time."""
    try:
        headers = {"Content-Type": "application/json", "X-Event-Type": "one"}
        return (await system.api.post(path, content=body, headers=headers)).status_code
    except httpx.HTTPError:
        return 0


def attempts_of(receiver: Receiver, webhook_id: str) -> set[str]:
    here = [arrival for arrival in receiver.arrivals if arrival.headers["webhook-id"] == webhook_id]
    return {arrival.headers["x-webhook-attempt"] for arrival in here}


async def _says(system: System, name: str, what: str) -> bool:
    return what in await system.why_not(name)


def ids(receiver: Receiver) -> set[str]:
    return {arrival.headers["webhook-id"] for arrival in receiver.arrivals}


async def fullest(settings: Settings) -> tuple[TopicPartition, int]:
    """The partition of `deliveries` that holds most, and its end."""
    consumer = AIOKafkaConsumer(**client_options(settings))
    await consumer.start()
    try:
        partitions = [TopicPartition(settings.topics.deliveries, number) for number in range(settings.partitions)]
        ends = await consumer.end_offsets(partitions)
        partition = max(partitions, key=lambda one: ends[one])
        return partition, ends[partition]
    finally:
        await consumer.stop()


def alarms(settings: Settings) -> list[str]:
    """The kinds of those in Postgres."""
    return [kind for (kind,) in rows(settings, "select kind from alarms")]
