"""Stream workers that stop or are killed under load: nothing is lost, and little is repeated."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from delivery_stream.app import ROLE
from shared.kafka import ensure_topics
from shared.settings import Settings
from tests.conftest import FreshSettings
from tests.eventually import eventually
from tests.group_commits import unfinished
from tests.kafka_log import read_records
from tests.receiver import Answer, Receiver
from tests.rows import rows
from tests.system import API, SCHEDULER, SINK, STREAM, System

ENDPOINTS = 12
#: Of those that hold a request for longer than a stop may take.
SILENT = 30
WORKERS = (STREAM, STREAM + "#2")
#: As long as a worker that is told to stop may take.
STOP_MAX_S = 20.0
#: As long as a worker that was killed may be missed by its endpoints.
SILENCE_MAX_S = 15.0


class Load:
    """Numbered events to all endpoints in turn, until told to stop."""

    def __init__(self, system: System, subscriptions: list[str], per_second: int) -> None:
        self._system = system
        self._subscriptions = itertools.cycle(subscriptions)
        self._pause_s = 10 / per_second
        self.accepted: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        sending = asyncio.create_task(self._send(stop))
        try:
            yield
        finally:
            stop.set()
            await sending  # to its last answer: what was accepted must be known

    async def _send(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            ten = [(next(self._subscriptions), b"{}") for _ in range(10)]
            self.accepted += await self._system.ingest_many(ten, producers=5)
            await asyncio.sleep(self._pause_s)


async def endpoints(system: System, receiver: Receiver, answer_after_s: float) -> list[str]:
    receiver.script_default(Answer(delay_s=answer_after_s))
    return [(await system.subscribe(f"{receiver.url}/{number}"))["id"] for number in range(ENDPOINTS)]


async def until_all_arrived(receiver: Receiver, accepted: list[str], within_s: float = 60) -> Counter[str]:
    deadline = time.monotonic() + within_s
    while missing := set(accepted) - {arrival.headers["webhook-id"] for arrival in receiver.arrivals}:
        assert time.monotonic() < deadline, f"{len(missing)} of {len(accepted)} are missing"
        await asyncio.sleep(0.1)
    return Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals)


async def until_all_committed(settings: Settings, within_s: float = 60) -> None:
    """The stream has nothing left to do, and said so to its group."""
    groups = {settings.topics.group(ROLE): (settings.topics.deliveries, settings.topics.events)}
    deadline = time.monotonic() + within_s
    while left := await unfinished(settings, groups):
        assert time.monotonic() < deadline, f"not committed: {left}"
        await asyncio.sleep(0.1)


async def errors(settings: Settings) -> Counter[str | None]:
    """How often each is in the attempts topic; None: the attempt had no error."""
    told = [json.loads(record.value) for record in await read_records(settings, settings.topics.attempts)]
    return Counter(one.get("error_class") for one in told if one["kind"] == "attempt")


async def test_a_worker_that_is_told_to_stop_finishes_what_is_under_way_and_leaves_the_rest(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    settings = fresh_settings(data_dir=tmp_path, max_in_flight=200)
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings, only=(API, SCHEDULER, SINK, STREAM)) as system:
        load = Load(system, await endpoints(system, receiver, 0.3), per_second=150)
        async with load.running():
            await receiver.wait_for(300, timeout_s=30)
            in_flight, told_s = receiver.in_flight, time.monotonic()
            system.kill(STREAM, signal.SIGTERM)
            assert await system.ended(STREAM) == 0, system.last_words(STREAM)
            took_s = time.monotonic() - told_s
        system.start(STREAM)
        await until_all_arrived(receiver, load.accepted)
        await until_all_committed(settings)
        # Only now: what is repeated may come later than the last that is new.
        counts = await until_all_arrived(receiver, load.accepted)
        repeats = sum(counts.values()) - len(counts)
        print(f"stopped in {took_s:.1f} s, {in_flight} in flight, {len(load.accepted)} accepted, {repeats} repeated")
        assert in_flight > 0
        assert took_s < STOP_MAX_S
        assert repeats == 0
        assert await errors(settings) == {None: len(load.accepted)}


async def test_what_takes_longer_than_a_stop_is_nobodys_failure_and_begins_again(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    """On connections kept from before and on new ones; and half of them would have been the last attempt."""
    settings = fresh_settings(data_dir=tmp_path)
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings, only=(API, SINK, STREAM)) as system:
        ids = [await silent_endpoint(system, receiver, number) for number in range(SILENT)]
        answered = await system.ingest_many((one, b'"answered"') for one in ids[: SILENT // 2])
        await eventually(lambda: statuses(settings) == {"succeeded": len(answered)}, within_s=30)
        before = await followed_by(settings)
        receiver.script_default(Answer(hold=True))
        held = await system.ingest_many((one, b'"held"') for one in ids)
        await receiver.wait_for(len(answered) + SILENT, timeout_s=30)

        told_s = time.monotonic()
        system.kill(STREAM, signal.SIGTERM)
        assert await system.ended(STREAM) == 0, system.last_words(STREAM)
        took_s = time.monotonic() - told_s
        assert took_s < STOP_MAX_S
        assert await followed_by(settings) == before

        receiver.script_default(200)
        receiver.release()
        system.start(STREAM)
        await eventually(lambda: statuses(settings) == {"succeeded": len(answered) + SILENT}, within_s=60)
        await until_all_committed(settings)
        counts = Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals)
        repeats = sum(counts.values()) - len(counts)
        print(f"stopped in {took_s:.1f} s with {SILENT} held, {repeats} repeated")
        assert counts == dict.fromkeys(answered, 1) | dict.fromkeys(held, 2), "each from its beginning, and once"
        assert await errors(settings) == {None: len(answered) + SILENT}


async def silent_endpoint(system: System, receiver: Receiver, number: int) -> str:
    """Every other one has no retries."""
    retries: dict[str, list[int]] = {"retry_delays": []} if number % 2 else {}
    return str((await system.subscribe(f"{receiver.url}/{number}", timeout_seconds=60, **retries))["id"])


async def followed_by(settings: Settings) -> dict[str, list[str]]:
    """What is in the topics that an attempt is followed by."""
    topics = settings.topics
    names = (topics.dead_letter, *map(topics.tier, settings.schedule.tiers_s))
    found = {name: [str(record.key) for record in await read_records(settings, name)] for name in names}
    told = [json.loads(record.value) for record in await read_records(settings, topics.attempts)]
    attempts = [f"{one['webhook_id']} {one.get('error_class')}" for one in told if one["kind"] == "attempt"]
    return found | {topics.attempts: sorted(attempts)}


def statuses(settings: Settings) -> dict[str, int]:
    return dict(rows(settings, "select status, count(*) from deliveries group by status"))


@pytest.mark.long_form
async def test_a_worker_that_is_told_to_stop_while_its_group_waits_for_another_stops_in_order(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    """One is frozen, one joins, and the group waits for the frozen one: until its session is over."""
    settings = fresh_settings(data_dir=tmp_path)
    await ensure_topics(settings)
    told, frozen, new = STREAM, STREAM + "#2", STREAM + "#3"
    async with System(settings, only=(told, frozen)) as system:
        system.kill(frozen, signal.SIGSTOP)
        before = revokes(system, told)
        try:
            system.start(new)
            await eventually(lambda: revokes(system, told) > before)
            told_s = time.monotonic()
            system.kill(told, signal.SIGTERM)
            assert await system.ended(told) == 0, system.last_words(told)
            print(f"stopped in {time.monotonic() - told_s:.1f} s")
            await system.ready(new)
        finally:
            system.kill(frozen, signal.SIGCONT)


def revokes(system: System, name: str) -> int:
    return system.last_words(name, 1000).count("partitions revoked")


async def test_the_endpoints_of_a_killed_worker_are_another_s_within_seconds(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    settings = fresh_settings(data_dir=tmp_path)
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings, only=(API, SCHEDULER, SINK, STREAM)) as system:
        load = Load(system, await endpoints(system, receiver, 0.01), per_second=60)
        system.start(WORKERS[1])
        await system.ready(STREAM, WORKERS[1])
        async with load.running():
            await receiver.wait_for(200, timeout_s=30)
            killed_s = time.monotonic()
            system.kill(WORKERS[1])
            await system.ended(WORKERS[1])
            silent = set(range(ENDPOINTS))
            while silent:
                silent = {n for n in silent if not any(a.at_s > killed_s + 11 for a in receiver.of(f"/{n}"))}
                assert time.monotonic() < killed_s + 40, f"nothing comes to {silent}"
                await asyncio.sleep(0.1)
        await until_all_arrived(receiver, load.accepted)
        gap_s = longest_gap(receiver)
        print(f"longest silence of an endpoint: {gap_s:.1f} s")
        assert gap_s <= SILENCE_MAX_S


def longest_gap(receiver: Receiver) -> float:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for arrival in receiver.arrivals:
        times[arrival.path].append(arrival.at_s)
    return max(later - earlier for each in times.values() for earlier, later in itertools.pairwise(each))
