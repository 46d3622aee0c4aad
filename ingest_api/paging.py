"""Pure: cursors and the Link header of the next page (RFC 8288).

A cursor is a place in the order of the log and no page number: rows that come in meanwhile move nothing, and the same
cursor gives the same page as long as its rows are kept. It holds nothing that its page did not show.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from shared.log_query import Position

#: Of base64url: 24 bytes.
CURSOR_PATTERN = "^[A-Za-z0-9_-]{32}$"
_PLACE = struct.Struct(">q16s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def cursor_of(position: Position) -> str:
    """The cursor of the page that begins after ``position``."""
    microseconds = (position.attempted_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(_PLACE.pack(microseconds, position.id.bytes)).decode()


def position_of(cursor: str) -> Position:
    """Where the page begins. Raises ValueError for what was never a cursor of ours."""
    microseconds, id_bytes = _PLACE.unpack(base64.b64decode(cursor, b"-_", validate=True))
    try:
        return Position(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id_bytes))
    except OverflowError:
        raise ValueError("a time outside of the calendar") from None


def next_link(path: str, query: Mapping[str, str], cursor: str) -> str:
    """``<…>; rel="next"``: the same question after ``cursor``, relative to the host that was asked."""
    asked = {name: value for name, value in query.items() if name not in ("skip", "cursor")}
    return f'<{path}?{urlencode({**asked, "cursor": cursor})}>; rel="next"'
