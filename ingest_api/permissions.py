"""What a caller may do, and how a route says what it needs.

A route declares one permission where it is declared itself: a parameter ``caller: Reader`` (or Manager, Publisher,
Admin), ``dependencies=[requires("read")]`` where the caller is of no interest, or ``plain("read", handler)`` for
``app.add_route``. An application with a route that declares none is not made: see `declared`.

    role      publish   read   manage   admin
    publish      x
    read                  x
    manage                x       x
    admin        x        x       x        x
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.responses import Response
from starlette.types import Scope

from ingest_api.problems import Problem
from shared.api_keys import Role

#: `open`: everybody. `ingest`: a signature or the publish role, which the handler decides.
Permission = Literal["open", "ingest", "publish", "read", "manage", "admin"]
PlainHandler = Callable[[Request], Awaitable[Response]]

DEFAULT_TENANT = "default"
#: Routes that FastAPI adds by itself.
DOCUMENTATION = frozenset({"/docs", "/redoc", "/openapi.json"})
ROLES: dict[Role, frozenset[Permission]] = {
    "publish": frozenset({"open", "ingest", "publish"}),
    "read": frozenset({"open", "read"}),
    "manage": frozenset({"open", "read", "manage"}),
    "admin": frozenset({"open", "ingest", "publish", "read", "manage", "admin"}),
}
_CALLER = "hooklog.caller"
_DECLARED = "hooklog_permission"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``tenant`` None: all of them. ``key_id`` None: ADMIN_API_KEY, or keys are not asked for."""

    role: Role
    tenant: str | None = None
    key_id: str | None = None

    def may(self, permission: Permission) -> bool:
        return permission in ROLES[self.role]

    def check(self, permission: Permission) -> None:
        """Raises Problem 403."""
        if not self.may(permission):
            raise Problem(403, "role_missing", f"This needs a key with the role {permission} or admin.")

    def sees(self, tenant: str | None) -> bool:
        """Things of other tenants do not exist for this caller: they are answered as unknown ids are."""
        return self.tenant is None or self.tenant == tenant

    def tenant_for(self, wanted: str | None) -> str:
        """The tenant of what the caller makes: the one asked for, else its own, else `default`.

        Raises Problem 403 when the key is another tenant's: the body named it, so nothing is given away.
        """
        if wanted is None:
            return self.tenant or DEFAULT_TENANT
        self.check_tenant(wanted)
        return wanted

    def check_tenant(self, wanted: str | None) -> None:
        """Raises Problem 403 when this tenant (None: all of them) is not the caller's to name."""
        if not self.sees(wanted):
            raise Problem(403, "tenant_refused", "This key belongs to another tenant.")


#: Where keys are not asked for, and what ADMIN_API_KEY may do.
EVERYTHING = Caller("admin")


class Requires:
    """A dependency: the caller, who may do this."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, request: Request) -> Caller | None:
        """None on open routes. Raises Problem 403."""
        return None if self.permission == "open" else caller_of(request.scope, self.permission)


def requires(permission: Permission) -> Any:
    """For ``dependencies=[…]`` of a route or a router."""
    return Depends(Requires(permission))


Publisher = Annotated[Caller, requires("publish")]
Reader = Annotated[Caller, requires("read")]
Manager = Annotated[Caller, requires("manage")]
Admin = Annotated[Caller, requires("admin")]


def plain(permission: Permission, handler: PlainHandler) -> PlainHandler:
    """The handler of a plain Starlette route, with its permission. `open` and `ingest` are let through."""

    async def guarded(request: Request) -> Response:
        if permission not in ("open", "ingest"):
            caller_of(request.scope, permission)
        return await handler(request)

    setattr(guarded, _DECLARED, permission)
    return guarded


def set_caller(scope: Scope, caller: Caller) -> None:
    """By the gate, before any route."""
    scope[_CALLER] = caller


def caller_of(scope: Scope, permission: Permission) -> Caller:
    """The caller, who may do this. Raises Problem 403."""
    caller: Caller = scope[_CALLER]
    caller.check(permission)
    return caller


def declared(app: FastAPI) -> dict[tuple[str, str], Permission]:
    """Method and path of every route -> what it needs.

    Raises RuntimeError for a route that declares none, or more than one: nobody has thought about it.
    """
    found: dict[tuple[str, str], Permission] = {}
    for route in iter_route_contexts(app.routes):
        path = route.path or ""
        permissions: set[Permission] = {"open"} if path in DOCUMENTATION else _permissions(route)
        if len(permissions) != 1:
            raise RuntimeError(
                f"{path} declares {sorted(permissions) or 'no permission'}: see ingest_api/permissions.py"
            )
        [permission] = permissions
        found |= {(method, path): permission for method in route.methods or ()}
    return found


def _permissions(route: Any) -> set[Permission]:
    of_plain = getattr(route.endpoint, _DECLARED, None)
    dependant: Dependant | None = getattr(route, "dependant", None)
    calls = [one.call for one in dependant.dependencies] if dependant else []
    return {call.permission for call in calls if isinstance(call, Requires)} | ({of_plain} if of_plain else set())
