"""Pure: which offsets above a group's committed one are done, as text in the commit's metadata.

The delivery stream finishes records in any order and writes this; whoever asks what the stream has done reads it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: The broker refuses metadata over 4,096 bytes (offset.metadata.max.bytes).
METADATA_MAX_CHARS = 4_000

_VERSION = "1:"
#: Offsets one commit may mark as done, four times what the stream has in its window; a foreign text must not fill our
#: memory.
_COMPLETED_MAX = 4 * 24_000


class Commit(NamedTuple):
    """What stands in the group's offset for one partition."""

    next_offset: int
    metadata: str


def encode_completed(next_offset: int, completed: Iterable[range]) -> str:
    """Ascending ranges of offsets above ``next_offset`` as text: base64 of run lengths, cut to what a commit can hold.

    Gap and run take turns, each a LEB128 number, counted from ``next_offset``. What is cut is repeated after a crash.
    """
    room = (METADATA_MAX_CHARS - len(_VERSION)) // 4 * 3
    out = bytearray()
    position = next_offset
    for run in completed:
        step = _leb128(run.start - position) + _leb128(len(run))
        if len(out) + len(step) > room:
            break
        out += step
        position = run.stop
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
