"""Everything of which there are several joins, leaves, is killed and is frozen at random, all at the same time."""

from __future__ import annotations

import asyncio
import random
import time

from tests.faults.form import LONG, SEED
from tests.faults.schedule import STOP_S, storm
from tests.faults.trial import Trial
from tests.system import API, PROGRAMS, SCHEDULER, SINK, STREAM

WORKERS = (STREAM, f"{STREAM}#2", f"{STREAM}#3")
# Fewer in the short form: to start one takes seconds of CPU.
OTHERS = (SCHEDULER, f"{SCHEDULER}#2", SINK, f"{SINK}#2") if LONG else (SCHEDULER, f"{SCHEDULER}#2", SINK)
#: One API: its producers know one address.
EVERYBODY = (*dict.fromkeys((*PROGRAMS, *WORKERS, *OTHERS)),)


async def everybody_restless(trial: Trial, seconds: float) -> str:
    """Each on its own, so that any of them may be away together; how often what was done."""
    dice = random.Random(SEED)
    # Who is frozen first has no time for anything else in a short storm.
    frozen = {dice.choice(WORKERS), dice.choice(OTHERS)} if seconds > 2 * STOP_S else set()
    ends_s = time.monotonic() + seconds
    counts = dict.fromkeys(("SIGTERM", "SIGKILL", "SIGSTOP"), 0)
    were_away: set[str] = set()

    async def restless(name: str) -> None:
        for fault in storm(SEED, name, frozen_first=name in frozen, frozen_again=LONG and name != API):
            await asyncio.sleep(fault.gap_s)
            if time.monotonic() + fault.duration_s > ends_s:
                return
            async with trial.away(name, how=fault.how):
                await asyncio.sleep(fault.duration_s)
            counts[fault.how.name] += 1
            were_away.add(name)
            await trial.ready_after_s(name, f"{name} after {fault.how.name}")

    async with asyncio.TaskGroup() as together:
        for name in EVERYBODY:
            together.create_task(restless(name))
    assert were_away == set(EVERYBODY)
    return ", ".join(f"{count} {how}" for how, count in counts.items())
