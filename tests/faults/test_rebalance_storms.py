"""Everything of which there are several joins, leaves, is killed and is frozen at random; then all is counted."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.faults.figures import Figures
from tests.faults.form import LONG, SEED
from tests.faults.schedule import LEAVE, storm
from tests.faults.trial import PROGRAMS, Trial
from tests.own_stack import OwnStack
from tests.system import SCHEDULER, SINK, STREAM

WORKERS = (STREAM, f"{STREAM}#2", f"{STREAM}#3")
OTHERS = (SCHEDULER, f"{SCHEDULER}#2", SINK, f"{SINK}#2")
#: One of the API: its producers know one address.
EVERYBODY = (*dict.fromkeys((*PROGRAMS, *WORKERS, *OTHERS)),)
SECONDS = 150.0 if LONG else 16.0


@pytest.mark.timeout(SECONDS + 280)
async def test_workers_schedulers_and_sinks_that_come_and_go_lose_nothing(
    own_stack: OwnStack, figures: Figures
) -> None:
    async with Trial(own_stack, await own_stack.fresh_settings(), SEED, programs=EVERYBODY) as trial:
        async with trial.load.running(), trial.fault("everybody", "storm"):
            played = await everybody_restless(trial)
        verdict = await trial.count()
        [(window, repeats)] = verdict.repeats
        line = f"a storm of {SECONDS:.0f} s: {played}, {repeats} repeated, at most {window.bound}"
        print(line, verdict, sep="\n")
        figures.add(trial.struck, verdict)
        figures.say(line)
        assert verdict.ok, f"FAULTS_SEED={SEED}\n{verdict}"


async def everybody_restless(trial: Trial) -> str:
    """Each on its own, so that any of them may be away together; how often what was done."""
    dice = random.Random(SEED)
    frozen = {dice.choice(WORKERS), dice.choice(OTHERS)}
    ends_s = time.monotonic() + SECONDS
    counts = dict.fromkeys(("SIGTERM", "SIGKILL", "SIGSTOP"), 0)

    async def restless(name: str) -> None:
        for fault in storm(SEED, name, frozen_first=name in frozen, frozen_again=LONG):
            await asyncio.sleep(fault.gap_s)
            if time.monotonic() + fault.duration_s > ends_s:
                return
            async with trial.away(name, fault.how):
                await asyncio.sleep(fault.duration_s)
            counts[fault.how.name] += 1
            await trial.ready_after_s(name, f"{name} after {fault.how.name}")

    async with asyncio.TaskGroup() as together:
        for name in (*WORKERS, *OTHERS):
            together.create_task(restless(name))
    assert counts[LEAVE.name] >= 2
    return ", ".join(f"{count} {how}" for how, count in counts.items())
