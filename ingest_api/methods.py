"""Which methods a path takes: HEAD wherever GET is (RFC 9110 section 9.3.2), and an `Allow` that names all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

#: A path, and the methods it takes, sorted.
MethodsOf = Callable[[str], list[str]]


class HeadToo:
    """ASGI middleware: HEAD is answered as GET. The server knows what was asked and sends no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def methods_of(routes: Iterable[tuple[str, str]]) -> MethodsOf:
    """For ``routes`` as (method, path). The framework's own `Allow` is that of the first route of a path alone."""
    places = [(method, compile_path(path)[0]) for method, path in routes]

    def of(path: str) -> list[str]:
        found = {method for method, place in places if place.match(path)}
        return sorted(found | {"HEAD"} if "GET" in found else found)

    return of
