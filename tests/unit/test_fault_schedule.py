"""The schedule of the fault tests."""

from __future__ import annotations

import itertools
from collections import Counter

from tests.faults.schedule import GAP_MAX_S, KILL, LEAVE, LONG_STOP_S, STOP, STOP_S, Fault, one_each, rounds, storm

VICTIMS = tuple("abcdefg")


def test_a_seed_is_a_schedule() -> None:
    assert one_each(5, VICTIMS) == one_each(5, VICTIMS)
    assert len({one_each(seed, VICTIMS) for seed in range(50)}) == 50


def test_each_victim_is_hit_once_and_so_many_are_frozen() -> None:
    for seed in range(50):
        faults = one_each(seed, VICTIMS, stopped=2)
        assert sorted(fault.victim for fault in faults) == list(VICTIMS)
        assert Counter(fault.how for fault in faults) == {STOP: 2, KILL: 5}
        assert all(0 <= fault.gap_s <= GAP_MAX_S for fault in faults)


def test_rounds_share_the_kills_and_the_stops_and_spare_nobody() -> None:
    made = rounds(5, VICTIMS, kill_count=200, per_round=20, stop_count=14, stops_s=(STOP_S, LONG_STOP_S))
    assert made == rounds(5, VICTIMS, kill_count=200, per_round=20, stop_count=14, stops_s=(STOP_S, LONG_STOP_S))
    assert [sum(fault.how == KILL for fault in faults) for faults in made] == [20] * 10
    every = [fault for faults in made for fault in faults]
    killed = Counter(fault.victim for fault in every if fault.how == KILL)
    assert max(killed.values()) - min(killed.values()) <= 1
    for stop_s in (STOP_S, LONG_STOP_S):
        frozen = [fault.victim for fault in every if fault.how == STOP and fault.duration_s == stop_s]
        assert sorted(frozen) == list(VICTIMS)


def test_a_few_kills_are_one_round() -> None:
    [faults] = rounds(5, VICTIMS, kill_count=3, per_round=20, stop_count=0, stops_s=(12,))
    assert len(faults) == 3


def test_a_storm_is_a_seed_s_and_each_victim_has_its_own() -> None:
    def of(seed: int, victim: str) -> list[Fault]:
        return list(itertools.islice(storm(seed, victim, frozen_first=False, frozen_again=False), 20))

    assert of(5, "a") == of(5, "a")
    assert of(5, "a") != of(6, "a")
    assert [fault.how for fault in itertools.islice(storm(5, "a", frozen_first=True, frozen_again=False), 1)] == [STOP]
    once = Counter(fault.how for fault in itertools.islice(storm(5, "b", frozen_first=True, frozen_again=False), 200))
    again = Counter(fault.how for fault in itertools.islice(storm(5, "b", frozen_first=False, frozen_again=True), 200))
    assert (set(once), once[STOP]) == ({STOP, KILL, LEAVE}, 1)
    assert again[STOP] > 1
