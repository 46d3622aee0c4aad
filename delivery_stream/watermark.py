"""Pure: up to which time a partition has been read, trusting no record's own time.

The log's end, asked for at a known time, is a mark: once it is read, everything appended before that time has been.
"""

from __future__ import annotations

from typing import NamedTuple

Partition = tuple[str, int]


class Mark(NamedTuple):
    """The end of a partition, asked for at ``at_ms``."""

    at_ms: int
    end_offset: int


class Watermarks:
    """The next mark to reach, for each partition."""

    def __init__(self, margin_ms: int) -> None:
        """``margin_ms``: a delivery is appended this much later than it was accepted, at most."""
        self._margin_ms = margin_ms
        self._marks: dict[Partition, Mark] = {}
        self._reached_ms: dict[Partition, int] = {}

    def assigned(self, partition: Partition, at_ms: int) -> None:
        """It is ours from now on; how far behind it is counts from here."""
        self._reached_ms[partition] = at_ms

    def observed(self, partition: Partition, mark: Mark) -> None:
        """Set the next mark; while one is not reached, later ones would only move away."""
        self._marks.setdefault(partition, mark)

    def reached(self, partition: Partition, next_offset: int) -> int | None:
        """Everything accepted before this has been read, milliseconds; None: no further than before."""
        mark = self._marks.get(partition)
        if mark is None or next_offset < mark.end_offset:
            return None
        del self._marks[partition]
        reached_ms = max(mark.at_ms - self._margin_ms, 0)
        self._reached_ms[partition] = reached_ms
        return reached_ms

    def slowest_ms(self) -> int | None:
        """Up to which time all of them have been read; None: none is ours."""
        return min(self._reached_ms.values(), default=None)

    def revoked(self, partition: Partition) -> None:
        """Somebody else reads it now."""
        self._marks.pop(partition, None)
        self._reached_ms.pop(partition, None)
