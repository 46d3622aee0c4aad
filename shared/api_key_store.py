"""The truth about API keys: Postgres, by blocking calls."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import uuid_utils
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, text, update

from shared.api_keys import ApiKey, CreatedKey, KeySet, Role, generate_key, key_hash, shown
from shared.database import Database
from shared.subscription import canonical_id
from shared.tables import LOCK_API_KEY_WRITES, ApiKeyRow

#: Every process holds all keys in memory: 10,000 are about 5 MB.
MOST_KEYS = 10_000
_PAGE_MAX = 100
#: Revoked keys are of no use to anyone; their rows stay so long for people who look into the table.
_KEPT_AFTER_REVOCATION = timedelta(days=30)
_table = ApiKeyRow.__table__  # type: ignore[attr-defined]


class ApiKeyStore:
    """Reads and writes the truth. Blocking. Everything here raises StoreUnavailable when Postgres is out of reach."""

    def __init__(self, database: Database, *, most_keys: int = MOST_KEYS) -> None:
        self._database = database
        self._most_keys = most_keys

    def create(self, role: Role, *, tenant: str | None = None, name: str = "") -> CreatedKey | None:
        """A new key; None when there are as many as there may be."""
        key = generate_key()
        values = {
            "id": UUID(str(uuid_utils.uuid7())),
            "name": name,
            "prefix": shown(key),
            "key_hash": key_hash(key.encode()),
            "role": role,
            "tenant": tenant,
            "created_at": func.clock_timestamp(),
        }
        with self._database.transaction() as connection:
            version = _next_version(connection)
            connection.execute(delete(_table).where(_table.c.revoked_at < func.now() - _KEPT_AFTER_REVOCATION))
            working = select(func.count()).select_from(_table).where(_table.c.revoked_at.is_(None))
            if connection.execute(working).scalar_one() >= self._most_keys:
                return None
            row = connection.execute(insert(_table).values(**values, version=version).returning(_table))
            return CreatedKey(_from_row(row.mappings().one()), key)

    def list(self, skip: int = 0, limit: int = _PAGE_MAX, *, tenant: str | None = None) -> list[ApiKey]:
        """Those that work, the oldest first; at most 100. With a tenant: only that one's."""
        query = select(_table).where(_table.c.revoked_at.is_(None)).order_by(_table.c.created_at, _table.c.id)
        if tenant is not None:
            query = query.where(_table.c.tenant == tenant)
        with self._database.transaction() as connection:
            rows = connection.execute(query.offset(max(skip, 0)).limit(min(limit, _PAGE_MAX))).mappings().all()
        return [_from_row(row) for row in rows]

    def revoke(self, key_id: str, *, tenant: str | None = None) -> bool:
        """False when there is no such key, or no longer; with a tenant: none of that one's."""
        canonical = canonical_id(key_id)
        if canonical is None:
            return False
        here = [_table.c.id == UUID(canonical), _table.c.revoked_at.is_(None)]
        if tenant is not None:
            here.append(_table.c.tenant == tenant)
        with self._database.transaction() as connection:
            stamped: dict[str, Any] = {"version": _next_version(connection), "revoked_at": func.clock_timestamp()}
            return connection.execute(update(_table).where(*here).values(stamped)).rowcount == 1

    def newer_than(self, version: int | None) -> KeySet | None:
        """All keys that work; None when nothing changed since ``version``."""
        with self._database.transaction() as connection:
            # The version first: what is committed between the two queries is seen again by the next call.
            newest = connection.execute(select(func.coalesce(func.max(_table.c.version), 0))).scalar_one()
            if newest == version:
                return None
            working = select(_table).where(_table.c.revoked_at.is_(None)).limit(self._most_keys)
            rows = connection.execute(working).mappings().all()
        return KeySet(newest, {bytes(row["key_hash"]): _from_row(row) for row in rows})


def _next_version(connection: Connection) -> int:
    """Under one lock until the commit, so that versions are committed in their order."""
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK_API_KEY_WRITES})
    return int(connection.execute(text("select nextval('api_keys_version')")).scalar_one())


def _from_row(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=str(row["id"]),
        name=row["name"],
        prefix=row["prefix"],
        role=row["role"],
        tenant=row["tenant"],
        created_at=row["created_at"],
    )
