"""Every process is killed or frozen under load; then everything is counted.

FAULTS_SEED repeats a schedule. FAULTS=long (`make faults`) kills at length; see `conftest`.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator

import pytest

from tests.faults.schedule import one_each
from tests.faults.trial import PROGRAMS, Trial
from tests.own_stack import OwnStack

SEED = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))


@pytest.fixture(scope="module")
async def own_stack() -> AsyncIterator[OwnStack]:
    async with OwnStack() as stack:
        yield stack


async def test_each_process_is_hit_once_and_nothing_is_lost(own_stack: OwnStack) -> None:
    print(f"FAULTS_SEED={SEED}")
    async with Trial(own_stack, await own_stack.fresh_settings(), SEED) as trial:
        async with trial.load.running():
            await trial.play(one_each(SEED, (*PROGRAMS, *own_stack.names)))
            await trial.load.delete_one()
        verdict = await trial.count()
        for one, (window, repeats) in zip(trial.struck, verdict.repeats, strict=True):
            print(
                f"{one.name}: {one.over_s - one.began_s:.1f} s, ready after {one.ready_after_s:.1f} s, "
                f"works after {one.works_after_s:.1f} s, {repeats} repeated (at most {window.bound})"
            )
        print(verdict)
        assert verdict.ok, f"FAULTS_SEED={SEED}\n{verdict}"
