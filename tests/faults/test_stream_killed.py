"""kill -9 of the stream worker with hundreds of deliveries in flight and a stuck head in several partitions."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

from delivery_stream.app import ROLE
from shared.kafka import ensure_topics
from shared.settings import Settings
from tests.conftest import FreshSettings
from tests.group_commits import commits_watched
from tests.kafka_log import read_records
from tests.receiver import Answer, Receiver
from tests.rows import rows
from tests.system import API, SCHEDULER, SINK, STREAM, System

ENDPOINTS = 25
STUCK = 4
EVENTS = 8000
#: Of them have arrived when the worker is killed. All in flight are answered at once, every half second, and the last
#: commit that is known can be five such rounds old: twice as many must be finished.
ARRIVED = 6800
MAX_IN_FLIGHT = 600
ANSWER_AFTER_S = 0.5
#: How long Kafka may take, beyond a commit interval, to confirm an attempt to the worker.
CONFIRMED_LATE_S = 0.25


async def test_a_killed_worker_loses_nothing_and_repeats_only_what_was_under_way(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    settings = fresh_settings(data_dir=tmp_path, max_in_flight=MAX_IN_FLIGHT)
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings, only=(API, SCHEDULER, SINK)) as system:
        heads, others = await endpoints(system, receiver)
        accepted = await system.ingest_many((head, b'"head"') for head in heads)
        accepted += await system.ingest_many((others[n % ENDPOINTS], b'{"number": %d}' % n) for n in range(EVENTS))
        system.start(STREAM)
        group = settings.topics.group(ROLE)
        async with commits_watched(settings, [group]) as watched:
            await until_busy(receiver)
            system.kill(STREAM)
            killed_at_s = time.time()
            await system.ended(STREAM)
        commits = watched[group]
        attempts = await attempts_at_s(settings)
        in_flight = len({arrival.headers["webhook-id"] for arrival in receiver.arrivals} - set(attempts))
        # The last commit that arrived was drawn up after the one before it: what was finished since is in neither.
        finished_last = sum(at_s >= commits[-2] - CONFIRMED_LATE_S for at_s in attempts.values())

        receiver.script_default(200)
        for number in range(STUCK):
            receiver.script(f"/stuck-{number}", 200)
        system.start(STREAM)
        await until_all_succeeded(system, accepted)

        arrived = Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals)
        lost = set(accepted) - set(arrived)
        repeats = sum(arrived.values()) - len(arrived)
        bound = in_flight + finished_last
        print(f"accepted {len(accepted)}, in flight {in_flight}, finished {len(attempts)}, lost {len(lost)}")
        print(
            f"repeated {repeats}, bound {bound}: {finished_last} in {killed_at_s - commits[-2]:.2f} s and a little more"
        )
        assert 500 <= in_flight <= MAX_IN_FLIGHT
        assert len(attempts) > 2 * finished_last, "so many that forgetting them would be seen"
        assert not lost
        assert set(arrived) <= set(accepted)
        assert repeats <= bound
        assert rows(
            system.settings,
            "select count(*), count(distinct (webhook_id, run, attempt)) from attempts where kind = 'attempt'",
        ) == [(len(accepted), len(accepted))]


async def endpoints(system: System, receiver: Receiver) -> tuple[list[str], list[str]]:
    """Subscriptions whose first delivery never gets an answer, and others that take half a second each."""
    for number in range(STUCK):
        receiver.script(f"/stuck-{number}", Answer(hold=True))
    receiver.script_default(Answer(delay_s=ANSWER_AFTER_S))
    heads = [await system.subscribe(f"{receiver.url}/stuck-{n}", timeout_seconds=60) for n in range(STUCK)]
    others = [await system.subscribe(f"{receiver.url}/{n}") for n in range(ENDPOINTS)]
    return [head["id"] for head in heads], [other["id"] for other in others]


async def until_busy(receiver: Receiver) -> None:
    """At least 500 in flight and ten times as many finished behind the stuck heads."""
    deadline = time.monotonic() + 40
    while receiver.in_flight < 500 or len(receiver.arrivals) < ARRIVED:
        assert time.monotonic() < deadline, f"{receiver.in_flight} in flight, {len(receiver.arrivals)} arrived"
        await asyncio.sleep(0.01)


async def attempts_at_s(settings: Settings) -> dict[str, float]:
    """When each webhook's attempt was sent to Kafka, of those that are there."""
    records = [(json.loads(r.value), r) for r in await read_records(settings, settings.topics.attempts)]
    return {told["webhook_id"]: r.timestamp / 1000 for told, r in records if told["kind"] == "attempt"}


async def until_all_succeeded(system: System, accepted: list[str]) -> None:
    deadline = time.monotonic() + 90
    while True:
        found = rows(system.settings, "select status, count(*) from deliveries group by status")
        if found == [("succeeded", len(accepted))]:
            return
        assert time.monotonic() < deadline, f"{len(accepted)} accepted, {found}\n{system.tail()}"
        await asyncio.sleep(0.2)
