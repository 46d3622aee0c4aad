"""Pure: which headers a subscription may add to every request. Asked when they are written, and again at each send."""

from __future__ import annotations

import re

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
#: Visible ASCII with spaces inside: nothing that ends a line.
_VALUE = re.compile(r"[!-~](?:[ -~]{0,2046}[!-~])?")
#: What the connection needs (RFC 9110 section 7.6.1 and what proxies read), and what we say about a delivery ourselves.
_OURS = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "http2-settings", "host", "content-length", "content-type", "content-encoding"}
    | {"expect", "user-agent", "traceparent", "tracestate", "x-hub-signature-256", "x-webhook-id", "x-webhook-attempt"}
    | {"x-event-type"}
)
_OUR_PREFIXES = ("webhook-", "x-hooklog-")


def check_static_header(name: str, value: str | None) -> None:
    """``value`` None: only the name. Raises ValueError with a clause that repeats neither."""
    if not _NAME.fullmatch(name) or not (value is None or _VALUE.fullmatch(value)):
        raise ValueError("holds a name or a value that cannot be an HTTP header (visible ASCII, one line, 2 KiB)")
    if name.lower() in _OURS or name.lower().startswith(_OUR_PREFIXES):
        raise ValueError("holds a header that is set by us or by the connection")
