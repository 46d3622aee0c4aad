"""Pure: which offset of a partition may be committed.

Offsets come in as they are received, in order; they are done in any order. What may be committed is the *watermark*,
the first received offset that is not done, and beside it, as the commit's metadata, which offsets above it are done
already: the next owner of the partition skips those. Kept are only those that are not done, so a commit costs by them
and not by what was done behind a slow one. An offset that nothing was received of is a hole in the log, and as good as
done.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from shared.completed_offsets import Commit as Commit
from shared.completed_offsets import decode_completed, encode_completed

#: A slow head must not stop its healthy neighbours: at 2,000 a second this is 12 s of one partition.
WINDOW = 24_000


class Tracker:
    """One partition during one assignment."""

    def __init__(self, start: Commit) -> None:
        """``start``: the group's commit; without one, where the log starts."""
        #: Those not done, ascending, each with how many were received before it.
        self._unfinished: OrderedDict[int, int] = OrderedDict()
        self._received = 0
        self._before = decode_completed(start)
        #: The next offset that should be received.
        self.expected_offset = start.next_offset
        self._dirty = False

    @property
    def unfinished(self) -> int:
        """Received and not yet done."""
        return len(self._unfinished)

    @property
    def full(self) -> bool:
        """Too far ahead of the watermark: no more until the head is done."""
        return self._received - next(iter(self._unfinished.values()), self._received) >= WINDOW

    def received(self, offset: int) -> bool:
        """Take note of the next offset, greater than all before; False when an earlier owner has it done."""
        self.expected_offset = offset + 1
        if offset in self._before:
            self._dirty = True
            return False
        self._unfinished[offset] = self._received
        self._received += 1
        return True

    def done(self, offset: int) -> None:
        """This received offset is finished: whatever followed from it is in the log. At most once per offset."""
        del self._unfinished[offset]
        self._dirty = True

    def commit(self) -> Commit | None:
        """What to commit now; None when nothing has changed since the last call. See `failed`."""
        if not self._dirty:
            return None
        self._dirty = False
        watermark = next(iter(self._unfinished), self.expected_offset)
        return Commit(watermark, encode_completed(watermark, self._completed()))

    def failed(self) -> None:
        """The last commit did not reach the broker: give it again."""
        self._dirty = True

    def _completed(self) -> Iterator[range]:
        """Everything between those that are not done."""
        unfinished = iter(self._unfinished)
        after = next(unfinished, self.expected_offset - 1) + 1
        for offset in unfinished:
            if after < offset:
                yield range(after, offset)
            after = offset + 1
        if after < self.expected_offset:
            yield range(after, self.expected_offset)
