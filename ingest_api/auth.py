"""Who asks: decided before any route. Whether a key is asked for is fixed by settings, never by what a table holds.

With keys (ADMIN_API_KEY set): ``Authorization: Bearer KEY`` on everything but the open paths; POST /ingest/… comes
through, because a signature may stand in for the key there: the handler calls ``check_publisher``. What the key's role
may do is said by each route (permissions.py). Host and Origin are free then: a browser never adds a key by itself.
Without keys: the server is bound to loopback, and a web page must not be able to drive it: the Host is loopback's own
name, a foreign Origin is refused.
Both: a body that is not an event's is JSON, and what has passed through us three times goes no further.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from ingest_api.permissions import EVERYTHING, Caller, set_caller
from ingest_api.problems import RETRY_AFTER, Problem, not_found
from ingest_api.request_body import bounded, refuse_coding
from shared.api_keys import ApiKey, key_hash
from shared.errors import StoreUnavailable

#: Added by our sender to every POST: how often what it delivers has come in here before, plus one.
HOPS_HEADER = "X-Hooklog-Hops"
MOST_HOPS = 3
#: Any body that is not an event's.
MOST_MANAGEMENT_BYTES = 128 * 1024
_LOOPBACK_HOST = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_GATE = "hooklog.gate"
_HOPS = "hooklog.hops"


class Keys(Protocol):
    """The part of KeyRing that is needed here."""

    def peek(self, key: bytes) -> ApiKey | None: ...
    async def get(self, key: bytes) -> ApiKey | None: ...


def key_ok(scope: Scope) -> bool:
    """Whether an open route may show this caller more: from memory alone, so that no answer waits."""
    gate: Gate = scope[_GATE]
    caller = gate.known(_bearer(scope))
    return caller is not None and caller.may("read")


async def check_publisher(scope: Scope, tenant: str) -> None:
    """Nothing, when the caller may publish to something of ``tenant`` without a signature.

    Raises Problem: 401 without a key, 404 for another tenant's, 403 without the role, 503 when nobody can tell.
    """
    gate: Gate = scope[_GATE]
    caller = await gate.identify(_bearer(scope))
    if not caller.sees(tenant):
        raise not_found("subscription")
    caller.check("publish")


def hops(scope: Scope) -> int:
    """How often this request's event has passed through us already, 0 to 2."""
    count: int = scope[_HOPS]
    return count


class Gate:
    """Who may come in, and as whom."""

    def __init__(self, *, admin_api_key: str, keys: Keys, open_paths: Collection[str]) -> None:
        """``admin_api_key`` empty: no keys are asked for."""
        self._admin_hash = key_hash(admin_api_key.encode()) if admin_api_key else None
        self._keys = keys
        self._open = frozenset(open_paths)

    async def check(self, scope: Scope) -> dict[bytes, bytes]:
        """The headers of a request that may go on to its route, which finds its caller in the scope. Raises Problem.

        Of a header that was sent twice, the last.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        scope[_GATE] = self
        scope[_HOPS] = _hops(headers.get(b"x-hooklog-hops"))
        if self._admin_hash is None:
            _check_browser(scope, headers)
            set_caller(scope, EVERYTHING)
        elif not self._is_open(scope):
            set_caller(scope, await self.identify(_bearer(scope)))
        if scope[_HOPS] >= MOST_HOPS:
            raise Problem(403, "loop_detected", f"This event has passed through here {MOST_HOPS} times.")
        _check_content_type(scope, headers)
        return headers

    def known(self, key: bytes | None) -> Caller | None:
        """Whose key this is, as far as memory tells."""
        if self._admin_hash is None:
            return EVERYTHING
        if key is None:
            return None
        # Of equal length whatever was sent, so that not even that is told by the time it takes.
        if hmac.compare_digest(key_hash(key), self._admin_hash):
            return EVERYTHING
        return _caller(self._keys.peek(key))

    async def identify(self, key: bytes | None) -> Caller:
        """Raises Problem: 401 without a key that works, 503 when nobody can tell."""
        caller = self.known(key)
        if caller is None and key is not None:
            try:
                caller = _caller(await self._keys.get(key))
            except StoreUnavailable:
                raise Problem(
                    503, "store_unavailable", "The key cannot be looked up now; try again.", RETRY_AFTER
                ) from None
        if caller is None:
            raise missing_key()
        return caller

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"]
        return path in self._open or (scope["method"] == "POST" and path.startswith("/ingest/"))


class Gated:
    """ASGI middleware: lets a request through the gate to the routes, or answers with a problem."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._gate.check(scope)
            except Problem as problem:
                await problem.response(scope, receive, send)
                return
            if not _is_event(scope["path"]):
                receive = bounded(receive, MOST_MANAGEMENT_BYTES)
        await self._app(scope, receive, send)


def missing_key() -> Problem:
    return Problem(
        401, "key_required", "This needs the header `Authorization: Bearer KEY`.", {"WWW-Authenticate": "Bearer"}
    )


def _bearer(scope: Scope) -> bytes | None:
    """The key that was shown; None as well when there are two headers of it."""
    given = _values(scope, b"authorization")
    scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return key.strip() or None if scheme.lower() == b"bearer" else None


def _values(scope: Scope, wanted: bytes) -> list[bytes]:
    """However often the header was sent."""
    return [value for name, value in scope["headers"] if name == wanted]


def _caller(api_key: ApiKey | None) -> Caller | None:
    return Caller(api_key.role, api_key.tenant, api_key.id) if api_key else None


def _check_browser(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Raises Problem 403: a page that is not ours may have sent this."""
    host, origin = headers.get(b"host", b""), headers.get(b"origin")
    repeated = len(headers) < len(scope["headers"])  # then one of these two may have been sent twice
    if not _LOOPBACK_HOST.fullmatch(host) or (repeated and len(_values(scope, b"host")) > 1):
        raise Problem(403, "host_refused", "Without keys, Host must be localhost, 127.0.0.1 or [::1].")
    if origin is None:
        return
    if not _same_origin(origin, host) or (repeated and len(_values(scope, b"origin")) > 1):
        raise Problem(403, "origin_refused", "Without keys, pages of other origins may not ask.")


def _check_content_type(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Raises Problem 415: a form on a foreign page can send anything but JSON without asking first."""
    if scope["method"] in ("GET", "HEAD") or _is_event(scope["path"]):
        return
    if b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0":
        return
    refuse_coding(headers)
    if not _is_json(headers.get(b"content-type", b"")):
        raise Problem(415, "json_required", "The body's Content-Type must be application/json.")


def _is_event(path: str) -> bool:
    """Bodies that are an event's have any type, and the cap of events."""
    return path.startswith("/ingest/") or path in ("/events", "/point1")


def _is_json(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"application/json"


def _same_origin(origin: bytes, host: bytes) -> bool:
    return origin.lower() in (b"http://" + host.lower(), b"https://" + host.lower())


def _hops(given: bytes | None) -> int:
    """The count a request came with. What is no number is nobody's count: 0."""
    if given is None or not given.isdigit():
        return 0
    return int(given) if len(given) < 4 else MOST_HOPS
