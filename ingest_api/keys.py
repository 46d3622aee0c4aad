"""API keys: create, list, revoke. Only for admins; a key is shown once, in the answer to its creation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Annotated, Protocol

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ingest_api.openapi import problems
from ingest_api.permissions import Admin
from ingest_api.problems import Problem, not_found
from ingest_api.subscription_fields import Text, Time
from ingest_api.subscriptions import Limit, Skip
from shared.api_key_store import MOST_KEYS
from shared.api_keys import ApiKey, CreatedKey, Role
from shared.errors import StoreUnavailable

log = logging.getLogger(__name__)


class Store(Protocol):
    """The part of ApiKeyStore that is needed here. Raises StoreUnavailable, which is answered 503."""

    def create(self, role: Role, *, tenant: str | None, name: str) -> CreatedKey | None: ...
    def list(self, skip: int, limit: int, *, tenant: str | None) -> list[ApiKey]: ...
    def revoke(self, key_id: str, *, tenant: str | None) -> bool: ...


class Ring(Protocol):
    """The part of KeyRing that is needed here."""

    async def refresh(self) -> None: ...


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("holds characters that cannot be shown")
    return value


class CreateKey(BaseModel):
    """A new key. Unknown fields are refused: a misspelt `tenant` would make a key for all of them."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"role": "publish", "tenant": "acme", "name": "shop, production"}},
    )

    role: Role = Field(description="publish: events; read: look; manage: also change subscriptions; admin: all.")
    tenant: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Only what is of this tenant; null: of all."
    )
    name: Annotated[Text, AfterValidator(_printable)] = Field("", max_length=100, description="For people.")


class KeyAnswer(BaseModel):
    """A key without itself."""

    id: str
    name: str
    prefix: str = Field(description="How the key begins, to know it by.")
    role: Role
    tenant: str | None = Field(description="null: all tenants.")
    created_at: Time

    @classmethod
    def of(cls, api_key: ApiKey, **more: str) -> KeyAnswer:
        return cls(
            id=api_key.id,
            name=api_key.name,
            prefix=api_key.prefix,
            role=api_key.role,
            tenant=api_key.tenant,
            created_at=api_key.created_at,
            **more,
        )


class CreatedKeyAnswer(KeyAnswer):
    """The answer to the creation, the only one with the key."""

    key: str = Field(repr=False, description="`hk_…`: for `Authorization: Bearer`. Shown this once.")


def router(store: Store, ring: Ring) -> APIRouter:
    """The routes under /keys."""
    routes = APIRouter(prefix="/keys", tags=["keys"])

    @routes.post("", status_code=201, response_model=CreatedKeyAnswer, responses=problems(400, 409, 413, 415, 422))
    async def create(body: CreateKey, caller: Admin, response: Response) -> KeyAnswer:
        """Create a key. The answer is the only one that shows it. An admin of one tenant makes keys of that tenant."""
        tenant = caller.tenant if body.tenant is None else body.tenant
        caller.check_tenant(tenant)
        created = await asyncio.to_thread(store.create, body.role, tenant=tenant, name=body.name)
        if created is None:
            raise Problem(409, "too_many_keys", f"There are {MOST_KEYS} keys already: revoke some.")
        log.info("key created", extra=_facts(created.api_key) | {"by": caller.key_id})
        response.headers["Cache-Control"] = "no-store"
        return CreatedKeyAnswer.of(created.api_key, key=created.key)

    @routes.get("", responses=problems(422))
    def list_all(caller: Admin, skip: Skip = 0, limit: Limit = 100) -> list[KeyAnswer]:
        """Those that work, the oldest first."""
        return [KeyAnswer.of(one) for one in store.list(skip, limit, tenant=caller.tenant)]

    @routes.delete("/{key_id}", status_code=204, response_class=Response, responses=problems(404, 415))
    async def revoke(key_id: str, caller: Admin) -> Response:
        """Revoke a key: within a second it works nowhere any more."""
        if not await asyncio.to_thread(store.revoke, key_id, tenant=caller.tenant):
            raise not_found("key")
        log.info("key revoked", extra={"key_id": key_id, "by": caller.key_id})
        with contextlib.suppress(StoreUnavailable):  # it is revoked; who comes next is told with the next reading
            await ring.refresh()
        return Response(status_code=204)

    return routes


def _facts(api_key: ApiKey) -> dict[str, str | None]:
    return {"key_id": api_key.id, "prefix": api_key.prefix, "role": api_key.role, "tenant": api_key.tenant}
