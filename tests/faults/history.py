"""Pure: what was asked of a subscription and when -> what a process may know of it at some time.

All times are seconds since 1970.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

#: A change that was acknowledged is seen everywhere within this.
SEEN_S = 1.0
#: A request may take its 10 s, and its worker be frozen for a while before it writes it.
ON_ITS_WAY_S = 30.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One value that was asked for."""

    value: T
    sent_s: float
    #: Infinite: there was no answer. It may have come to pass.
    acked_s: float = math.inf


class History(Generic[T]):
    """The changes of one thing, one after the other."""

    def __init__(self, value: T, at_s: float) -> None:
        self.changes = [Change(value, at_s, at_s)]

    def note(self, value: T, sent_s: float, acked_s: float = math.inf) -> None:
        self.changes.append(Change(value, sent_s, acked_s))

    @property
    def last(self) -> T:
        return self.changes[-1].value

    def possible(self, from_s: float, to_s: float) -> list[int]:
        """Which changes a process may have taken for the last one at some moment of this time."""
        found, replaced_s = [], math.inf
        for number in reversed(range(len(self.changes))):
            change = self.changes[number]
            if change.sent_s <= to_s and from_s <= replaced_s + SEEN_S:
                found.append(number)
            replaced_s = min(replaced_s, change.acked_s)
        return found[::-1]

    def values(self, from_s: float, to_s: float) -> list[T]:
        """The same as values."""
        return [self.changes[number].value for number in self.possible(from_s, to_s)]


@dataclass(frozen=True, slots=True)
class Keys:
    """One rotation: a new key, and how long those before it go on. None: nobody was told the key."""

    key: bytes | None
    overlap_s: float = 0.0


def known_at(signed_s: int, arrived_s: float) -> tuple[float, float]:
    """When the subscription was looked up for a request: as it was signed, in that second. Its way may take longer."""
    return float(signed_s), min(signed_s + 1.0, arrived_s)


def signed_rightly(keys: History[Keys], when: tuple[float, float], signers: Set[int], unknown: int) -> bool:
    """Whether a request may be signed so. ``signers``: the rotations whose keys did; ``unknown``: by no known key."""
    return any(
        must <= signers <= may and unknown <= strangers
        for number in keys.possible(*when)
        for must, may, strangers in [_signers(keys.changes[: number + 1], when)]
    )


def _signers(rotations: Sequence[Change[Keys]], when: tuple[float, float]) -> tuple[set[int], set[int], int]:
    """Once all of these came to pass: who must sign, who may, and how many there may be whose key nobody knows."""
    must, may, strangers = set[int](), set[int](), 0
    # From when a key before the one looked at is no more, at the earliest and at the latest.
    for number, rotation in enumerate(rotations):
        earliest_s = latest_s = math.inf
        # One without an answer has replaced it or not; if not, the next one has, with another overlap.
        replaced = False
        for later in rotations[number + 1 :]:
            certain = later.acked_s < math.inf
            ends_at_once = later.value.overlap_s == 0
            if ends_at_once or not replaced:
                earliest_s = min(earliest_s, later.sent_s + later.value.overlap_s)
            is_next = later is rotations[number + 1]
            if certain and (ends_at_once or (is_next and rotation.acked_s < math.inf)):
                latest_s = min(latest_s, later.acked_s + later.value.overlap_s)
            replaced = replaced or certain
        if when[0] > latest_s:
            continue
        if rotation.value.key is None:
            strangers += 1
            continue
        may.add(number)
        if when[1] < earliest_s:
            must.add(number)
    return must, may, strangers
