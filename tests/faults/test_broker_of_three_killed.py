"""kill -9 of one broker of three under load, each in turn, the controllers' leader first: nothing is lost.

In every second round it has lost its disk when it is back.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from shared.kafka import ensure_topics
from tests.conftest import FreshSettings
from tests.eventually import eventually
from tests.own_brokers import BROKERS, OwnBrokers
from tests.receiver import Receiver
from tests.rows import rows
from tests.system import System, signed

ROUNDS = 6
SUBSCRIPTIONS = 8
PRODUCERS = 6
#: Between two posts of one producer: some sixty a second in all.
PAUSE_S = 0.1
#: With a broker down: so many more accepted before it comes back.
ACCEPTED_WITHOUT = 200
#: A new leader of the controllers (2 to 4 s), which then waits for the dead broker's session (2 s); and this machine.
SILENT_AT_MOST_S = 15.0


@dataclass
class Load:
    """Producers that never stop, and what each post was answered."""

    system: System
    subscriptions: list[str]
    accepted: list[str] = field(default_factory=list)
    accepted_at_s: list[float] = field(default_factory=list)
    #: Answered 503: they may be delivered or not.
    refused: int = 0
    stopping: bool = False

    async def run(self) -> None:
        async with aiohttp.ClientSession(str(self.system.api.base_url)) as client, asyncio.TaskGroup() as producers:
            for number in range(PRODUCERS):
                producers.create_task(self._produce(client, number))

    async def _produce(self, client: aiohttp.ClientSession, producer: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            body = b'{"event_type": "load", "producer": %d, "number": %d}' % (producer, number)
            path = f"/ingest/{self.subscriptions[number % len(self.subscriptions)]}"
            async with client.post(path, data=body, headers=signed(body, None)) as answer:
                told = await answer.json()
                if answer.status == 202:
                    self.accepted.append(told["webhook_id"])
                    self.accepted_at_s.append(time.monotonic())
                else:
                    assert answer.status == 503, told
                    assert int(answer.headers["Retry-After"]) > 0
                    self.refused += 1
            await asyncio.sleep(PAUSE_S)

    async def until_accepted(self, more: int, within_s: float) -> None:
        """So many more from now on."""
        enough = len(self.accepted) + more
        await eventually(lambda: len(self.accepted) >= enough, within_s=within_s)

    def longest_silence_s(self, since_s: float) -> float:
        """Between two 202s."""
        at_s = [since_s, *(one_s for one_s in self.accepted_at_s if one_s > since_s)]
        return max(after - before for before, after in pairwise(at_s))


@pytest.mark.long_form
async def test_a_killed_broker_of_three_loses_nothing_and_ingest_goes_on(
    fresh_settings: FreshSettings, tmp_path: Path
) -> None:
    brokers = await asyncio.to_thread(OwnBrokers, tmp_path / "kafka")
    async with brokers:
        settings = fresh_settings(
            kafka_bootstrap_servers=brokers.bootstrap_servers, replication_factor=BROKERS, data_dir=tmp_path
        )
        await ensure_topics(settings)
        await brokers.until_in_sync(settings.topic_prefix)
        async with Receiver() as receiver, System(settings) as system:
            subscriptions = [await system.subscribe(f"{receiver.url}/{n}") for n in range(SUBSCRIPTIONS)]
            load = Load(system, [subscription["id"] for subscription in subscriptions])
            async with asyncio.TaskGroup() as running:
                running.create_task(load.run())
                await load.until_accepted(100, within_s=20)
                killed = brokers.controller()
                for number in range(ROUNDS):
                    await one_round(brokers, killed, load, receiver, new_disk=number % 2 == 1)
                    killed = killed % BROKERS + 1
                load.stopping = True

            def lost() -> set[str]:
                return set(load.accepted) - {arrival.headers["webhook-id"] for arrival in receiver.arrivals}

            await eventually(lambda: not lost(), within_s=60)
            await eventually(lambda: unfinished(system, load) == 0, within_s=60)
            await system.ready()  # all four, and none was started again
            counts = Counter(
                (arrival.headers["webhook-id"], arrival.headers["x-webhook-attempt"]) for arrival in receiver.arrivals
            )
            repeats = sum(counts.values()) - len(counts)
            extra = {webhook_id for webhook_id, _ in counts} - set(load.accepted)
            print(
                f"{ROUNDS} round(s): accepted {len(load.accepted)}, lost {len(lost())}, 503 {load.refused}, "
                f"arrived after a 503 {len(extra)}, repeated {repeats}"
            )
            assert len(extra) <= load.refused


async def one_round(brokers: OwnBrokers, number: int, load: Load, receiver: Receiver, *, new_disk: bool) -> None:
    """Without one broker for a while, until all three hold everything again."""
    leads, refused, began_s = brokers.controller() == number, load.refused, time.monotonic()
    arrived = len(receiver.arrivals)
    await brokers[number].halt(signal.SIGKILL)
    await load.until_accepted(ACCEPTED_WITHOUT, within_s=45)
    await eventually(lambda: len(receiver.arrivals) >= arrived + ACCEPTED_WITHOUT, within_s=45)
    without_s = time.monotonic() - began_s
    if new_disk:
        await asyncio.to_thread(brokers.lose_disk, number)
    brokers[number].start()
    await brokers[number].ready()
    await brokers.until_in_sync(load.system.settings.topic_prefix)
    silence_s = load.longest_silence_s(began_s)
    how = f"{' (controller)' if leads else ''} killed{', disk lost' if new_disk else ''}"
    print(
        f"kafka-{number}{how}: away {without_s:.1f} s, "
        f"in sync after {time.monotonic() - began_s:.1f} s; longest between two 202 {silence_s:.1f} s, "
        f"503 {load.refused - refused}"
    )
    assert silence_s < SILENT_AT_MOST_S


def unfinished(system: System, load: Load) -> int:
    """How many accepted deliveries have not succeeded in the attempt log."""
    query = "select count(*) from deliveries where status = 'succeeded' and id = any(%s)"
    [(count,)] = rows(system.settings, query, load.accepted)
    return len(load.accepted) - int(count)
