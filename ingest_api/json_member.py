"""Pure: the exact bytes of one member of a JSON object, as they stand in the text."""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


def _unread(_text: str) -> None:
    """A number's value is not asked for; and some are too long to be one in Python."""


#: Written in C; what it makes of the values is thrown away.
_value_at = json.JSONDecoder(parse_int=_unread, parse_float=_unread, parse_constant=_unread).raw_decode


def member_bytes(document: bytes, name: str) -> bytes | None:
    """The bytes of the member's value, without the space around it; the last one where the name stands twice.

    ``document`` is a JSON object that a strict parser has taken. None: it has no such member. Raises ValueError when
    it is nested too deeply for this scanner (about 1,000).
    """
    # One character for one byte: positions agree, and all that JSON's grammar is made of is ASCII.
    text = document.decode("latin-1")
    key = name.encode().decode("latin-1")
    found: bytes | None = None
    at = _skip(text, _skip(text, 0) + 1)  # behind the brace
    try:
        while text[at] != "}":
            member, at = _value_at(text, at)
            start = _skip(text, _skip(text, at) + 1)  # behind the colon
            _value, end = _value_at(text, start)
            if _same(member, key):
                found = document[start:end]
            at = _skip(text, end)
            if text[at] == ",":
                at = _skip(text, at + 1)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def _same(member: Any, key: str) -> bool:
    return bool(member == key)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
