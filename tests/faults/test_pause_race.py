"""Pause, resume and traffic at the same time, at random; then everything is counted.

PAUSE_RACE_SECONDS (20) says how long, PAUSE_RACE_SEED repeats a run as far as its timing allows.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import psycopg2
import pytest

from shared.kafka import ensure_topics
from shared.records import Source, delivery_from_record
from shared.settings import Settings
from tests.conftest import FreshSettings
from tests.receiver import Receiver
from tests.system import SCHEDULER, System, read_topic

SUBSCRIPTIONS = 7
PRODUCERS = 4
SECONDS = float(os.environ.get("PAUSE_RACE_SECONDS") or 20)
SEED = int(os.environ.get("PAUSE_RACE_SEED") or random.randrange(2**32))


@pytest.mark.timeout(SECONDS + 280)
async def test_pause_resume_and_traffic_race_and_every_event_is_accounted_for(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    settings = fresh_settings(data_dir=tmp_path)
    second = settings.model_copy(update={"data_dir": tmp_path / "second"})
    await ensure_topics(settings)
    async with Receiver() as receiver, System(settings) as system, System(second, only=(SCHEDULER,)):
        race = Race(system, receiver, random.Random(SEED))
        await race.run()
        await race.until_ended(within_s=90)

        arrived = Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals)
        states = race.states()
        topics = settings.topics
        parked, delivered = [await _by_request(settings, topic) for topic in (topics.parked, topics.deliveries)]
        lost = {one for one in race.accepted if one not in arrived and states[one] != "cancelled"}
        print(
            f"seed {SEED}, {SECONDS:g} s: {race.pauses} pauses, {race.resumes} resumes, {len(race.accepted)} accepted"
        )
        print(f"parked {parked.total()} times, one of them {max(parked.values())} times")
        print(f"arrived {len(arrived)}, twice {arrived.total() - len(arrived)}, lost {len(lost)}")
        print(dict(Counter(states.values())))
        assert parked.total() > 0
        assert not lost, f"seed {SEED}"
        # Each time it was parked it came back once: none was left behind, and none came back both ways.
        wrong = {one: (count, parked[one]) for one, count in delivered.items() if count != 1 + parked[one]}
        assert wrong == {}, f"seed {SEED}"
        assert arrived.total() == len(arrived), f"seed {SEED}"
        assert set(states.values()) <= {"succeeded", "cancelled"}


class Race:
    """Whoever takes part, and what they were told."""

    def __init__(self, system: System, receiver: Receiver, dice: random.Random) -> None:
        self._system, self._receiver, self._dice = system, receiver, dice
        #: Webhook ids that were answered 202.
        self.accepted: list[str] = []
        self.pauses = self.resumes = 0
        self._subscriptions: list[str] = []
        self._deleted: str | None = None
        self._ends_s = 0.0

    async def run(self) -> None:
        """For SECONDS; at the end all are resumed, without a limit, but for one that was deleted in the middle."""
        for number in range(SUBSCRIPTIONS):
            # Every second one is slow to come back, so that pauses meet its job in the middle.
            slow = {"rate_limit": 6} if number % 2 else {}
            created = await self._system.subscribe(f"{self._receiver.url}/{number}", **slow)
            self._subscriptions.append(created["id"])
        self._ends_s = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as together:
            for _ in range(PRODUCERS):
                together.create_task(self._produce())
            for one in self._subscriptions:
                together.create_task(self._toggle(one))
            together.create_task(self._delete_one())
        for one in self._subscriptions:
            if one != self._deleted:
                await self._system.api.patch(f"/subscriptions/{one}", json={"rate_limit": None})
                await self._act(one, "resume")

    def states(self) -> dict[str, str]:
        """The log's word on every webhook."""
        connection = psycopg2.connect(self._system.settings.database_url.get_secret_value())
        try:
            with connection.cursor() as cursor:
                cursor.execute("select id, status from deliveries")
                return defaultdict(lambda: "unknown", cursor.fetchall())
        finally:
            connection.close()

    async def until_ended(self, within_s: float) -> None:
        """Every event that was accepted has come to its end."""
        deadline_s = time.monotonic() + within_s
        while True:
            states = self.states()
            counts = Counter(states[one] for one in self.accepted)
            if counts.keys() <= {"succeeded", "failed", "cancelled"}:
                return
            assert time.monotonic() < deadline_s, f"seed {SEED}: {counts}\n{self._system.tail()}"
            await asyncio.sleep(0.5)

    async def _produce(self) -> None:
        number = 0
        while time.monotonic() < self._ends_s:
            one = self._dice.choice(self._subscriptions)
            answer = await self._system.api.post(f"/ingest/{one}", content=b'{"n": %d}' % number)
            number += 1
            if answer.status_code == 202:
                self.accepted.append(answer.json()["webhook_id"])
            else:
                assert (answer.status_code, one) == (404, self._deleted), answer.text
            await asyncio.sleep(self._dice.uniform(0, 0.06))

    async def _toggle(self, one: str) -> None:
        """Changes that follow each other closely, so that workers are behind, and longer pauses in between."""
        while time.monotonic() < self._ends_s:
            await self._act(one, self._dice.choice(["pause", "resume"]))
            await asyncio.sleep(self._dice.choice([0.0, 0.1, 0.5, 1.0, 2.0, 4.0]))

    async def _act(self, one: str, action: str) -> None:
        answer = await self._system.api.post(f"/subscriptions/{one}/{action}")
        if answer.status_code == 404 and one == self._deleted:
            return
        assert answer.status_code == 200, answer.text
        self.pauses += action == "pause"
        self.resumes += action == "resume"

    async def _delete_one(self) -> None:
        await asyncio.sleep(SECONDS / 2)
        self._deleted = self._subscriptions[0]
        answer = await self._system.api.delete(f"/subscriptions/{self._deleted}")
        assert answer.status_code == 204, answer.text


async def _by_request(settings: Settings, topic: str) -> Counter[tuple[str, int, int]]:
    """How often there is a record of a webhook with the same numbers of attempt and waits."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for record in await read_topic(settings, topic):
        source = Source(record.topic, record.partition, record.offset)
        delivery = delivery_from_record(source, record.value, record.headers, record.timestamp)
        counts[delivery.webhook_id, delivery.attempt, delivery.waits] += 1
    return counts
