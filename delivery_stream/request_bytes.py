"""Pure: the bytes of a POST as they go out. What could end a header's line or the head does not get in here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from shared.target_url import Target, parse_target

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110 section 5.6.2
#: How a message is framed and to whom it goes is ours to say.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te", "trailer"})
#: RFC 9110 section 5.5: visible ASCII, obs-text, space and tab.
_VALUE_BYTES = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])


class BadHeader(ValueError):
    """A header that cannot be sent as it is; the text names the header and never its value."""


def request_bytes(url: str, headers: Sequence[tuple[str, str]], body: bytes) -> tuple[Target, bytes]:
    """Where to send it, and the whole request. Raises BadHeader, and ValueError for the URL."""
    target, start = _prepare(url)
    return target, b"".join((start, str(len(body)).encode(), b"\r\n", encode_headers(headers), b"\r\n", body))


def encode_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """The lines of ``headers``. Raises BadHeader for what could end a line or the head, or is ours to set."""
    lines = "".join([_name(name) + value + "\r\n" for name, value in headers])
    try:
        encoded = lines.encode("latin-1")
    except UnicodeEncodeError:
        raise BadHeader("a header value has characters beyond latin-1") from None
    # One pass over all: besides the line ends that we wrote, every byte must be one that a value may have.
    if encoded.translate(None, _VALUE_BYTES) != b"\r\n" * len(headers):
        raise BadHeader("a header value has control characters")
    return encoded


@lru_cache(maxsize=1024)
def _name(name: str) -> str:
    """The beginning of a header's line."""
    lower = name.lower()
    if not lower or not _TOKEN.issuperset(lower):
        raise BadHeader("a header name has characters that no name may have")
    if lower in _OURS:
        raise BadHeader(f"the header {lower} is set by the sender")
    return name + ": "


@lru_cache(maxsize=4096)
def _prepare(url: str) -> tuple[Target, bytes]:
    """The target, and its request up to the number of the body's bytes. Raises ValueError."""
    target = parse_target(url)
    return target, f"POST {target.path} HTTP/1.1\r\nHost: {target.host_header}\r\nContent-Length: ".encode("ascii")
