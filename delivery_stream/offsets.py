"""Pure: which offset of a partition may be committed.

Offsets come in as they are received, in order; they are done in any order. What may be committed is the *watermark*,
the first received offset that is not done, and beside it, as the commit's metadata, which offsets above it are done
already: the next owner of the partition skips those. The walk is over received offsets and not over integers, so holes
in the log are fine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from shared.completed_offsets import Commit as Commit
from shared.completed_offsets import decode_completed, encode_completed

#: A slow head must not stop its healthy neighbours: at 2,000 a second this is 12 s of one partition.
WINDOW = 24_000


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
