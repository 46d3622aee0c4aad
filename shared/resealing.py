"""Encrypt again, under the first key of ENCRYPTION_KEY, what an older one of its keys had sealed.

After that the older key can be left out. Run by `hooklog migrate`; safe to repeat and to run several times at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select, text, update

from shared.database import Database
from shared.encryption import Cipher
from shared.tables import LOCK_SUBSCRIPTION_WRITES, InstallationRow, SubscriptionRow

#: Writers of subscriptions wait meanwhile: some 50 ms.
_ROWS_A_BATCH = 100
_SEALED = ("sealed_secret", "sealed_signing_keys", "sealed_headers", "sealed_previous", "sealed_private_keys")
_subscriptions = SubscriptionRow.__table__  # type: ignore[attr-defined]
_installation = InstallationRow.__table__  # type: ignore[attr-defined]


def reseal(database: Database, cipher: Cipher, rows_a_batch: int = _ROWS_A_BATCH) -> int:
    """Gives how many rows were sealed again; 0 without a look when there is only one key.

    Each batch is one transaction: after a failure what is done is done. Raises StoreUnavailable; ConfigurationError
    when a row opens with none of the keys.
    """
    if not cipher.has_older_keys:
        return 0
    with database.transaction() as connection:
        count = _reseal_check(connection, cipher)
    after: UUID | None = UUID(int=0)
    while after is not None:
        with database.transaction() as connection:
            done, after = _reseal_batch(connection, cipher, after, rows_a_batch)
        count += done
    return count


def _reseal_check(connection: Connection, cipher: Cipher) -> int:
    rows = connection.execute(select(_installation).with_for_update()).mappings().all()
    count = 0
    for row in rows:
        if changes := _resealed(row, ("key_check",), cipher):
            connection.execute(update(_installation).where(_installation.c.id == row["id"]).values(changes))
            count += 1
    return count


def _reseal_batch(connection: Connection, cipher: Cipher, after: UUID, rows_a_batch: int) -> tuple[int, UUID | None]:
    """How many were changed, and where to go on; None: that was the last batch.

    Neither version nor time change: the subscription is the same one, and what processes hold in memory is good.
    """
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK_SUBSCRIPTION_WRITES})
    here = (_subscriptions.c.id > after, _subscriptions.c.deleted_at.is_(None))
    columns = [_subscriptions.c.id, *(_subscriptions.c[name] for name in _SEALED)]
    batch = select(*columns).where(*here).order_by(_subscriptions.c.id).limit(rows_a_batch)
    rows = connection.execute(batch).mappings().all()
    count = 0
    for row in rows:
        if changes := _resealed(row, _SEALED, cipher):
            connection.execute(update(_subscriptions).where(_subscriptions.c.id == row["id"]).values(changes))
            count += 1
    return count, rows[-1]["id"] if len(rows) == rows_a_batch else None


def _resealed(row: RowMapping, names: tuple[str, ...], cipher: Cipher) -> Mapping[str, Any]:
    """The columns that an older key sealed, sealed again."""
    return {
        name: cipher.seal(cipher.open(row[name])) for name in names if row[name] and not cipher.is_newest(row[name])
    }
