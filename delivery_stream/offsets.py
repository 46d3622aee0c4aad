"""Pure: which offset of a partition may be committed.

Offsets come in as they are received, in order; they are done in any order. What may be committed is the *watermark*,
the first received offset that is not done, and beside it, as the commit's metadata, which offsets above it are done
already: the next owner of the partition skips those. The walk is over received offsets and not over integers, so holes
in the log are fine.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: A slow head must not stop its healthy neighbours: at 2,000 a second this is 12 s of one partition.
WINDOW = 24_000

#: The broker refuses metadata over 4,096 bytes (offset.metadata.max.bytes).
METADATA_MAX_CHARS = 4_000

_VERSION = "1:"
#: Offsets one commit may mark as done; a foreign text must not fill our memory.
_COMPLETED_MAX = 4 * WINDOW


class Commit(NamedTuple):
    """What stands in the group's offset for one partition."""

    next_offset: int
    metadata: str


class Tracker:
    """One partition during one assignment."""

    def __init__(self, start: Commit) -> None:
        """``start``: the group's commit; without one, where the log starts."""
        self._received: deque[int] = deque()
        self._done: set[int] = set()
        self._before = decode_completed(start)
        self._next_offset = start.next_offset
        #: The next offset that should be received.
        self.expected_offset = start.next_offset
        self._dirty = False

    @property
    def unfinished(self) -> int:
        """Received and not yet done."""
        return len(self._received) - len(self._done)

    @property
    def full(self) -> bool:
        """Too far ahead of the watermark: no more until the head is done."""
        return len(self._received) >= WINDOW

    def received(self, offset: int) -> bool:
        """Take note of the next offset, greater than all before; False when an earlier owner has it done."""
        self._received.append(offset)
        self.expected_offset = offset + 1
        if offset in self._before:
            self.done(offset)
            return False
        return True

    def done(self, offset: int) -> None:
        """This received offset is finished: whatever followed from it is in the log. At most once per offset."""
        self._done.add(offset)
        self._dirty = True
        received, done = self._received, self._done
        while received and received[0] in done:
            head = received.popleft()
            done.remove(head)
            self._next_offset = head + 1

    def commit(self) -> Commit | None:
        """What to commit now; None when nothing has changed since the last call. See `failed`."""
        if not self._dirty:
            return None
        self._dirty = False
        return Commit(self._next_offset, encode_completed(self._next_offset, self._completed()))

    def failed(self) -> None:
        """The last commit did not reach the broker: give it again."""
        self._dirty = True

    def _completed(self) -> Iterator[int]:
        return (offset for offset in self._received if offset in self._done)


def encode_completed(next_offset: int, completed: Iterable[int]) -> str:
    """Ascending offsets above ``next_offset`` as text: base64 of run lengths, cut to what a commit can hold.

    Gap and run take turns, each a LEB128 number, counted from ``next_offset``. What is cut is repeated after a crash.
    """
    room = (METADATA_MAX_CHARS - len(_VERSION)) // 4 * 3
    out = bytearray()
    position = next_offset
    for start, end in _runs(completed):
        step = _leb128(start - position) + _leb128(end - start)
        if len(out) + len(step) > room:
            break
        out += step
        position = end
    return _VERSION + base64.b64encode(out).decode() if out else ""


def decode_completed(commit: Commit) -> frozenset[int]:
    """The offsets above the watermark that are done; empty for a text that is not ours."""
    if not commit.metadata.startswith(_VERSION):
        return frozenset()
    try:
        numbers = list(_leb128_numbers(base64.b64decode(commit.metadata[len(_VERSION) :], validate=True)))
    except (binascii.Error, ValueError):
        return frozenset()
    completed: set[int] = set()
    position = commit.next_offset
    for gap, run in zip(numbers[::2], numbers[1::2], strict=False):
        if len(completed) + run > _COMPLETED_MAX:
            break
        completed.update(range(position + gap, position + gap + run))
        position += gap + run
    return frozenset(completed)


def _runs(ascending: Iterable[int]) -> Iterator[tuple[int, int]]:
    """``1 2 3 7 8`` -> ``(1, 4) (7, 9)``."""
    start = end = None
    for offset in ascending:
        if offset != end:
            if start is not None and end is not None:
                yield start, end
            start = offset
        end = offset + 1
    if start is not None and end is not None:
        yield start, end


def _leb128(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _leb128_numbers(data: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise ValueError("no number of ours")
        if byte < 0x80:
            yield number
            number = shift = 0
