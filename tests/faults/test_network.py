"""The ways from the programs to Kafka, Postgres and Redis are cut, stalled and made long, under load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.faults.counted import counted
from tests.faults.figures import Figures
from tests.faults.form import SEED
from tests.faults.trial import Trial
from tests.own_stack import KAFKA, POSTGRES, REDIS
from tests.proxied_stack import ProxiedStack, cut, reopen
from tests.system import API, PROGRAMS, SINK, STREAM

CUT, STALL, DELAY = "cut", "stall", "delay"
_DELAY_S = 0.2
_GAP_S = 0.5


@dataclass(frozen=True, slots=True)
class Harm:
    """The ways of some programs to one store, for a while."""

    how: str
    store: str
    for_s: float
    programs: tuple[str, ...] = PROGRAMS

    @property
    def kind(self) -> str:
        return self.how if self.programs == PROGRAMS else f"{self.how} ({', '.join(self.programs)})"


def of_all(store: str) -> tuple[Harm, ...]:
    """Short, longer than a session of Kafka's groups, without a word, and far away."""
    return Harm(CUT, store, 5), Harm(CUT, store, 15), Harm(STALL, store, 12), Harm(DELAY, store, 15)


def of_one(store: str, program: str) -> tuple[Harm, ...]:
    return Harm(CUT, store, 15, (program,)), Harm(STALL, store, 12, (program,))


LONG: dict[str, tuple[Harm, ...]] = {
    **{store: of_all(store) for store in (KAFKA, POSTGRES, REDIS)},
    **{f"{KAFKA} of {program}": of_one(KAFKA, program) for program in PROGRAMS},
    f"{POSTGRES} of one": tuple(harm for program in (API, STREAM, SINK) for harm in of_one(POSTGRES, program)),
    f"{REDIS} of one": tuple(harm for program in (API, STREAM) for harm in of_one(REDIS, program)),
}
SHORT = (Harm(CUT, KAFKA, 2), Harm(STALL, KAFKA, 2, (STREAM,)), Harm(STALL, POSTGRES, 2))


@pytest.mark.short_form
async def test_a_network_that_fails_loses_nothing(proxied_stack: ProxiedStack, figures: Figures) -> None:
    await harmed_and_counted(proxied_stack, figures, SHORT)


@pytest.mark.long_form
@pytest.mark.parametrize("what", LONG)
async def test_a_network_that_fails_for_long_loses_nothing(
    proxied_stack: ProxiedStack, figures: Figures, what: str
) -> None:
    await harmed_and_counted(proxied_stack, figures, [harm for harm in LONG[what] if harm.store in proxied_stack.names])


async def harmed_and_counted(stack: ProxiedStack, figures: Figures, harms: Sequence[Harm]) -> None:
    """One load, all this harm while it runs, and the count."""
    settings = await stack.fresh_settings()
    print(f"FAULTS_SEED={SEED}")
    async with Trial(stack, settings, SEED, system=stack.system(settings)) as trial:
        async with trial.load.running():
            for harm in harms:
                await asyncio.sleep(_GAP_S)
                async with trial.fault(harm.store, harm.kind, sufferers=PROGRAMS):
                    await do(harm, stack)
                print(trial.struck[-1])
        await counted(trial, figures)


async def do(harm: Harm, stack: ProxiedStack) -> None:
    """The harm, and its end."""
    ways = stack.ways(harm.store, harm.programs)
    try:
        match harm.how:
            case "cut":
                await cut(ways)
            case "stall":
                for way in ways:
                    way.stall()
            case _:
                for way in ways:
                    way.delay_s = _DELAY_S
        await asyncio.sleep(harm.for_s)
    finally:
        if harm.how == CUT:
            await reopen(ways)
        for way in ways:
            way.flow()
            way.delay_s = 0.0
