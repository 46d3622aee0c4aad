"""The disk of Kafka, or of Postgres, is full under load, and has room again."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.counted import counted, refused
from tests.faults.figures import Figures
from tests.faults.form import SEED
from tests.faults.trial import Trial
from tests.own_stack import KAFKA, POSTGRES
from tests.small_disk import SmallDiskStack
from tests.system import PROGRAMS, SINK

FULL_S = 15.0


@pytest.mark.long_form
@pytest.mark.parametrize(("store", "mounted"), [(KAFKA, True), (KAFKA, False), (POSTGRES, True)])
async def test_a_full_disk_loses_nothing_that_was_accepted(figures: Figures, store: str, mounted: bool) -> None:
    print(f"FAULTS_SEED={SEED}")
    async with SmallDiskStack(store, mounted=mounted) as own, Trial(own, await own.fresh_settings(), SEED) as trial:
        async with trial.load.running():
            await asyncio.sleep(2)
            async with trial.fault(store, "disk full", sufferers=(store, *PROGRAMS)):
                with trial.excused(store):
                    first, began_s, said = max(trial.load.sent) + 1, time.monotonic(), ""
                    while time.monotonic() < began_s + FULL_S:
                        full_or_skip(own)  # whoever gave up gave some of it back
                        await asyncio.sleep(0.5)
                        said = await trial.system.why_not(SINK) or said
                    last, code = max(trial.load.sent), own.exit_code(store)
                    own.free()
                    if code is not None:  # Kafka halts without a disk: whoever watches over it starts it again
                        await own.ended(store)
                        own.start(store)
        not_taken, struck = refused(trial, first, last), trial.struck[-1]
        line = (
            f"disk of {store} full for {FULL_S:.0f} s ({own.way}): {not_taken} of {last - first + 1} events not taken, "
            f"{'it ended by itself' if code is not None else 'it went on'}, "
            f"ready after {struck.ready_after_s:.1f} s, works after {struck.works_after_s:.1f} s"
        )
        print(line)
        print(f"the sink said: {said[:300]}")
        figures.say(line)
        await counted(trial, figures)
        assert said, "the disk was full"
        assert bool(not_taken) == (store == KAFKA), "without Postgres events are taken, without Kafka none"


def full_or_skip(own: SmallDiskStack) -> None:
    try:
        own.fill()
    except PermissionError:
        pytest.skip("NOT TRIED: no volume may be mounted here, and the limits of Postgres' user may not be set")
