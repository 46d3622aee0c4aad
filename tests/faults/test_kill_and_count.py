"""Every process is killed or frozen under load; then everything is counted. See `form` for what can be chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.faults.counted import counted
from tests.faults.figures import Figures
from tests.faults.form import CLEAN_EVENTS, KILLS, KILLS_PER_ROUND, PER_SECOND, ROUNDS, SEED, STOPS
from tests.faults.schedule import LONG_STOP_S, STOP_S, Fault, one_each, rounds
from tests.faults.trial import Trial
from tests.own_stack import OwnStack
from tests.system import PROGRAMS


@pytest.mark.short_form
async def test_each_process_is_hit_once_and_nothing_is_lost(own_stack: OwnStack, figures: Figures) -> None:
    await killed_and_counted(own_stack, figures, SEED, one_each(SEED, victims(own_stack)))


@pytest.mark.long_form
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(ROUNDS))
async def test_a_round_of_kills_loses_nothing(own_stack: OwnStack, figures: Figures, number: int) -> None:
    all_rounds = rounds(
        SEED,
        victims(own_stack),
        kill_count=KILLS,
        per_round=KILLS_PER_ROUND,
        stop_count=STOPS,
        stops_s=(STOP_S, LONG_STOP_S),
    )
    await killed_and_counted(own_stack, figures, SEED + number, all_rounds[number])


@pytest.mark.timeout(1200)
async def test_a_clean_run_repeats_nothing_and_has_one_row_for_each_event(
    own_stack: OwnStack, figures: Figures
) -> None:
    async with Trial(own_stack, await own_stack.fresh_settings(), SEED) as trial:
        await trial.load.burst(CLEAN_EVENTS)
        verdict = await trial.count(settles_within_s=600)
        print(verdict)
        figures.add(trial.struck, verdict)
        figures.say(f"a clean run of {CLEAN_EVENTS} events: {verdict.repeated} repeated, {verdict.lost} lost")
        assert verdict.ok, verdict
        assert (verdict.accepted, verdict.rows, verdict.repeated) == (CLEAN_EVENTS, CLEAN_EVENTS, 0)
        assert verdict.ended == {"succeeded": CLEAN_EVENTS}


async def killed_and_counted(own_stack: OwnStack, figures: Figures, seed: int, faults: Sequence[Fault]) -> None:
    """One load, all these faults while it runs, one of its subscriptions deleted, and the count."""
    print(f"FAULTS_SEED={SEED}")
    async with Trial(own_stack, await own_stack.fresh_settings(), seed, per_second=PER_SECOND) as trial:
        async with trial.load.running():
            await trial.play(faults[: len(faults) // 2])
            async with asyncio.TaskGroup() as together:
                together.create_task(trial.load.delete_one())
                together.create_task(trial.play(faults[len(faults) // 2 :]))
        await counted(trial, figures)


def victims(own_stack: OwnStack) -> tuple[str, ...]:
    return (*PROGRAMS, *own_stack.names)
