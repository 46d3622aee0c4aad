"""Postgres and Redis are gone for minutes: events are taken and delivered from memory; then the log catches up."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import pytest

from tests.eventually import eventually
from tests.faults.counted import counted, refused
from tests.faults.figures import Figures
from tests.faults.form import SEED
from tests.faults.load import ENDPOINTS, FAN_OUT
from tests.faults.trial import Trial
from tests.own_stack import POSTGRES, REDIS, OwnStack
from tests.system import PROGRAMS

GONE_S = 120.0
#: 40 events come in a second: longer than this nothing arrives only if nothing is delivered.
SILENCE_MAX_S = 4.0


@pytest.mark.long_form
@pytest.mark.parametrize("gone", [(POSTGRES,), (REDIS,), (POSTGRES, REDIS)], ids="+".join)
async def test_without_its_stores_all_goes_on_from_memory(
    own_stack: OwnStack, figures: Figures, gone: tuple[str, ...]
) -> None:
    print(f"FAULTS_SEED={SEED}")
    gone = tuple(name for name in gone if name in own_stack.names)
    async with Trial(own_stack, await own_stack.fresh_settings(), SEED) as trial:
        async with trial.load.running():
            await eventually(lambda: in_memory(trial), within_s=60)
            said = f"{'+'.join(gone)} gone"
            async with trial.fault(gone[0], said, sufferers=(*gone, *PROGRAMS)), trial.away(*gone):
                first, began_s = max(trial.load.sent) + 1, time.monotonic()
                await asyncio.sleep(GONE_S)
                last, ended_s = max(trial.load.sent), time.monotonic()
        not_taken = refused(trial, first, last)
        here = [one for one in trial.receiver.arrivals if began_s <= one.at_s <= ended_s]
        silence_s = max(
            (later - earlier for earlier, later in itertools.pairwise([began_s, *(a.at_s for a in here), ended_s]))
        )
        wide = sum(one.path.startswith("/wide") for one in here)
        line = (
            f"{said} for {ended_s - began_s:.0f} s: {last - first + 1} events sent, {not_taken} not taken, "
            f"{len(here)} arrived ({wide} of them fanned out), longest silence {silence_s:.1f} s, "
            f"all works after {trial.struck[-1].works_after_s:.1f} s"
        )
        print(line)
        figures.say(line)
        await counted(trial, figures)
        assert not_taken == 0
        assert silence_s <= SILENCE_MAX_S
        assert wide > 0


def in_memory(trial: Trial) -> bool:
    """Everybody who is sent to was sent to twice: API and stream worker know them all."""
    counts = Counter(arrival.path for arrival in trial.receiver.arrivals)
    return len(counts) >= ENDPOINTS + FAN_OUT + 1 and min(counts.values()) >= 2
