"""Pause, resume, edit, rotate, delete and traffic at the same time, at first in peace and then under kills."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest

from shared.records import Source, delivery_from_record
from shared.settings import Settings
from tests.faults.changing import MAY_GO, Race
from tests.faults.figures import Figures
from tests.faults.form import LONG, SEED
from tests.faults.oracle import Finding
from tests.faults.schedule import kills
from tests.faults.trial import Trial
from tests.kafka_log import read_records
from tests.own_stack import OwnStack
from tests.system import API, SCHEDULER, SINK, STREAM

#: A parked webhook is another scheduler's business when one is killed.
PROGRAMS = (API, STREAM, SCHEDULER, f"{SCHEDULER}#2", SINK)
PEACE_S = 60.0 if LONG else 10.0
KILLS = 24 if LONG else 3
#: Of the load beside the race.
PER_SECOND = 8.0

#: A request for a delivery: webhook, attempt, waits.
Asked = tuple[str, int, int]


@pytest.mark.timeout(PEACE_S + 20 * KILLS + 240)
async def test_changes_traffic_and_kills_race_and_every_request_is_as_it_may_be(
    own_stack: OwnStack, figures: Figures
) -> None:
    settings = await own_stack.fresh_settings()
    async with Trial(own_stack, settings, SEED, per_second=PER_SECOND, programs=PROGRAMS) as trial:
        race = Race(trial.system, trial.receiver, trial.load, SEED)
        await race.prepare()

        async def peace_and_kills() -> None:
            going = iter(MAY_GO)
            await asyncio.sleep(PEACE_S / 2)
            await race.delete(next(going))
            await asyncio.sleep(PEACE_S / 2)
            for fault in kills(random.Random(SEED), (STREAM, SCHEDULER, API), KILLS):
                await asyncio.sleep(fault.gap_s)
                await trial.strike(fault)
                for number in itertools.islice(going, 1):
                    await race.delete(number)

        async with trial.load.running():
            await race.run(peace_and_kills)
            await race.last_events()
        verdict = await trial.count()
        came_back, parked = await came_back_once(settings, trial.struck[0].began_s)
        findings = [*race.findings(), *came_back]
        line = f"changes that race: {dict(race.done)}, parked {parked} times"
        line += f", {race.compared} requests compared with them, {len(findings)} findings"
        print(line, verdict, *findings[:20], sep="\n")
        figures.add(trial.struck, verdict)
        figures.say(line)
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
