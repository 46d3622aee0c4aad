"""Pause, resume, edit, rotate, delete and traffic at once; at first in peace, then in storms and under kills."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping

import pytest

from shared.records import Source, delivery_from_record
from shared.settings import Settings
from tests.faults.changing import MAY_GO, Race
from tests.faults.figures import Figures
from tests.faults.form import LONG, SEED
from tests.faults.oracle import Finding
from tests.faults.schedule import kills
from tests.faults.storms import EVERYBODY, everybody_restless
from tests.faults.trial import Trial
from tests.kafka_log import read_records
from tests.own_stack import OwnStack
from tests.system import API, SCHEDULER, SINK, STREAM

PEACE_S = 60.0 if LONG else 4.0
STORM_S = 150.0 if LONG else 8.0
KILLS = 24
#: Of the load beside the race, events a second.
PER_SECOND = 12.0
#: A repeat may be parked as well, until the race is over.
PAUSED_MAX_S = 120.0

#: A request for a delivery: webhook, attempt, waits.
Asked = tuple[str, int, int]


@pytest.mark.timeout(PEACE_S + STORM_S + 500)
async def test_workers_schedulers_and_sinks_come_and_go_while_subscriptions_change(
    own_stack: OwnStack, figures: Figures
) -> None:
    async def storm(trial: Trial, race: Race) -> None:
        async with trial.fault("everybody", "storm"):
            began_s = asyncio.get_running_loop().time()
            storming = asyncio.create_task(everybody_restless(trial, STORM_S))
            await asyncio.sleep(STORM_S / 2)
            await race.delete(MAY_GO[1])
            played = await storming
        figures.say(f"a storm of {asyncio.get_running_loop().time() - began_s:.0f} s: {played}")

    await raced(own_stack, figures, EVERYBODY, storm)


@pytest.mark.long_form
@pytest.mark.timeout(PEACE_S + 20 * KILLS + 500)
async def test_one_after_the_other_is_killed_while_subscriptions_change(own_stack: OwnStack, figures: Figures) -> None:
    async def killed(trial: Trial, race: Race) -> None:
        await race.delete(MAY_GO[1])
        await trial.play(kills(random.Random(SEED), (STREAM, SCHEDULER, API), KILLS))

    # What is parked is the other scheduler's business when one is killed.
    await raced(own_stack, figures, (API, STREAM, SCHEDULER, f"{SCHEDULER}#2", SINK), killed)


async def raced(
    own_stack: OwnStack,
    figures: Figures,
    programs: tuple[str, ...],
    disturb: Callable[[Trial, Race], Awaitable[None]],
) -> None:
    """Changes and traffic, at first in peace and then not; and the count."""
    settings = await own_stack.fresh_settings()
    async with Trial(own_stack, settings, SEED, per_second=PER_SECOND, programs=programs, late_s=PAUSED_MAX_S) as trial:
        race = Race(trial.system, trial.receiver, trial.load, SEED)
        await race.prepare()

        async def meanwhile() -> None:
            await asyncio.sleep(PEACE_S / 2)
            await race.delete(MAY_GO[0])
            await asyncio.sleep(PEACE_S / 2)
            await disturb(trial, race)

        async with trial.load.running():
            await race.run(meanwhile)
            await race.last_events()
        if not LONG:
            await trial.end_in_favour()
        verdict = await trial.count()
        came_back, parked = await came_back_once(settings, trial.struck[0].began_s)
        findings = [*race.findings(), *came_back]
        line = f"changes that race: {dict(race.done)}, parked {parked} times"
        line += f", {race.compared} requests compared with them, {len(findings)} findings"
        print(line, *trial.struck, verdict, *findings[:20], sep="\n")
        figures.add(trial.struck, verdict)
        for said in (line, *(f"finding: {one}" for one in findings[:20])):
            figures.say(said)
        assert parked > 0
        assert race.compared > 0
        assert verdict.ok, f"FAULTS_SEED={SEED}\n{verdict}"
        assert not findings, f"FAULTS_SEED={SEED}\n" + "\n".join(map(str, findings[:20]))


async def came_back_once(settings: Settings, peace_ends_s: float) -> tuple[list[Finding], int]:
    """What was parked came back as often, and in peace not once more; and how often anything was parked."""
    parked, parked_last_s = await _by_request(settings, settings.topics.parked)
    asked, asked_last_s = await _by_request(settings, settings.topics.deliveries)
    found = []
    for one, count in asked.items():
        last_s = max(parked_last_s.get(one[0], 0.0), asked_last_s[one[0]])
        if count < 1 + parked[one]:
            found.append(Finding("parked and left behind", str(one), f"{parked[one]} times, {count} requests"))
        elif count > 1 + parked[one] and last_s < peace_ends_s - 1:
            found.append(Finding("came back both ways", str(one), f"parked {parked[one]} times, {count} requests"))
    found += [Finding("parked and never asked for", str(one)) for one in parked if one not in asked]
    return found, parked.total()


async def _by_request(settings: Settings, topic: str) -> tuple[Counter[Asked], Mapping[str, float]]:
    """How often there is a record with the same numbers, and the time of each webhook's last."""
    counts: Counter[Asked] = Counter()
    last_s: defaultdict[str, float] = defaultdict(float)
    for record in await read_records(settings, topic, within_s=60):
        source = Source(record.topic, record.partition, record.offset)
        delivery = delivery_from_record(source, record.value, record.headers, record.timestamp)
        counts[delivery.webhook_id, delivery.attempt, delivery.waits] += 1
        last_s[delivery.webhook_id] = max(last_s[delivery.webhook_id], record.timestamp / 1000)
    return counts, last_s
