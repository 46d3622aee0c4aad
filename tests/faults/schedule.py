"""Pure: which fault comes when. The same seed gives the same schedule."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KILL = signal.SIGKILL
STOP = signal.SIGSTOP
LEAVE = signal.SIGTERM

#: Past the session timeout of a group, 10 s.
STOP_S = 12.0
LONG_STOP_S = 30.0
#: In a storm each process is left alone for so long, at most: to start takes seconds of CPU.
STORM_GAP_MAX_S = 5.0
#: A kill comes this long after the last fault's victim was ready again, at most.
GAP_MAX_S = 1.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One process, killed or told to leave (whoever watches over it starts it again), or frozen for a while."""

    #: From the time when the victim before it was ready again.
    gap_s: float
    victim: str
    how: signal.Signals
    #: How long it is frozen, or stays away.
    duration_s: float

    def __str__(self) -> str:
        return f"{self.how.name} of {self.victim} for {self.duration_s:.1f} s"


def kills(dice: random.Random, victims: Sequence[str], count: int) -> list[Fault]:
    """So many kills: each victim equally often, as far as that goes, in any order."""
    named = [victim for _ in range(-(-count // len(victims))) for victim in dice.sample(victims, len(victims))]
    return [_fault(dice, victim, KILL, dice.uniform(0.2, 2.0)) for victim in named[:count]]


def stops(dice: random.Random, victims: Sequence[str], stop_s: float) -> list[Fault]:
    """Each of these frozen once."""
    return [_fault(dice, victim, STOP, stop_s) for victim in dice.sample(victims, len(victims))]


def one_each(seed: int, victims: Sequence[str], *, stopped: int = 1, stop_s: float = STOP_S) -> tuple[Fault, ...]:
    """Each victim hit once: ``stopped`` of them frozen, the others killed."""
    dice = random.Random(seed)
    frozen = dice.sample(victims, stopped)
    killed = [victim for victim in victims if victim not in frozen]
    faults = kills(dice, killed, len(killed)) + stops(dice, frozen, stop_s)
    dice.shuffle(faults)
    return tuple(faults)


def rounds(
    seed: int, victims: Sequence[str], *, kill_count: int, per_round: int, stop_count: int, stops_s: Sequence[float]
) -> tuple[tuple[Fault, ...], ...]:
    """``kill_count`` kills in rounds, and ``stop_count`` stops spread over them: each victim's first, its second, …"""
    dice = random.Random(seed)
    killed = kills(dice, victims, kill_count)
    frozen = [
        fault
        for _, stop_s in zip(range(0, stop_count, len(victims)), itertools.cycle(stops_s), strict=False)
        for fault in stops(dice, victims, stop_s)
    ][:stop_count]
    count = -(-kill_count // per_round)
    made = []
    for number in range(count):
        faults = killed[number * per_round : (number + 1) * per_round] + frozen[number::count]
        dice.shuffle(faults)
        made.append(tuple(faults))
    return tuple(made)


def storm(seed: int, victim: str, *, frozen_first: bool, frozen_again: bool) -> Iterator[Fault]:
    """What one process of many goes through, without end: it leaves, is killed, or is frozen."""
    dice = random.Random(f"{seed} {victim}")
    if frozen_first:
        yield _fault(dice, victim, STOP, STOP_S)  # soon: it takes longer than anything else
    while True:
        [how] = dice.choices((LEAVE, KILL, STOP), (4, 3, 1 if frozen_again else 0))
        duration_s = STOP_S if how == STOP else dice.uniform(0.2, 2.0)
        yield Fault(round(dice.uniform(0.0, STORM_GAP_MAX_S), 2), victim, how, round(duration_s, 2))


def _fault(dice: random.Random, victim: str, how: signal.Signals, duration_s: float) -> Fault:
    return Fault(round(dice.uniform(0.0, GAP_MAX_S), 2), victim, how, round(duration_s, 2))
