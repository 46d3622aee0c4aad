"""The truth about subscriptions: Postgres, by blocking calls."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import uuid_utils
from sqlalchemy import ARRAY, ColumnElement, Connection, RowMapping, Text, cast, func, insert, or_, select, text, update

from shared import outbox, parking
from shared.clock import to_ms
from shared.database import Database
from shared.encryption import Cipher
from shared.endpoint_states import DisabledReason, forget, note_disabled
from shared.errors import TenantFull
from shared.event_filter import is_operational
from shared.records import Record
from shared.signature import decode_signing_secret, generate_private_key, generate_signing_secret
from shared.subscription import (
    Change,
    Created,
    ExpiringKey,
    FeedStart,
    ListFilter,
    NewSubscription,
    Previous,
    PrivateKeys,
    SealedSubscription,
    Status,
    Subscription,
    canonical_id,
)
from shared.subscription_changes import Changes, changed, rotated
from shared.tables import LOCK_SUBSCRIPTION_WRITES, SubscriptionRow
from shared.tenant_sets import Interest

_LIST_MAX = 1000
_ALL = ListFilter()
_OPTIONAL_SECRETS = ("sealed_secret", "sealed_headers", "sealed_previous", "sealed_private_keys")
_table = SubscriptionRow.__table__  # type: ignore[attr-defined]


class SubscriptionStore:
    """Reads and writes the truth. Blocking. Everything here raises StoreUnavailable when Postgres is out of reach."""

    def __init__(self, database: Database, cipher: Cipher, *, most_per_tenant: int | None = None) -> None:
        """``most_per_tenant``: how many subscriptions of a tenant ``create`` allows; None: any number."""
        self._database = database
        self._most_per_tenant = most_per_tenant
        self._cipher = cipher

    def create(self, new: NewSubscription) -> Created:
        """A new, active subscription with fresh keys. Raises TenantFull."""
        signing_secret = generate_signing_secret()
        private_keys = PrivateKeys(generate_private_key() if "v1a" in new.signing_versions else None)
        values = _columns(new, self._cipher) | {
            "id": UUID(str(uuid_utils.uuid7())),
            "status": "active",
            "sealed_signing_keys": _sealed_keys([decode_signing_secret(signing_secret)], self._cipher),
            "sealed_private_keys": private_keys.sealed(self._cipher, 0),
        }
        with self._database.transaction() as connection:
            _lock(connection)
            self._check_room(connection, new.tenant)
            now = func.clock_timestamp()
            stamped = {**values, "version": _next_version(connection), "created_at": now, "updated_at": now}
            row = connection.execute(insert(_table).values(stamped).returning(_table))
            created = _from_row(row.mappings().one())
        return Created(created.opened(self._cipher), signing_secret)

    def get(self, subscription_id: str) -> Subscription | None:
        """None when there is none, or no longer, or the id is no UUID."""
        sealed, _read_ms = self.read(subscription_id)
        return sealed.opened(self._cipher) if sealed else None

    def list(self, skip: int = 0, limit: int = 100, wanted: ListFilter = _ALL) -> list[Subscription]:
        """Those that are ``wanted``, the oldest first; at most 1,000."""
        query = select(_table).where(*_conditions(wanted)).order_by(_table.c.created_at, _table.c.id)
        page = query.offset(max(skip, 0)).limit(min(limit, _LIST_MAX))
        with self._database.transaction() as connection:
            rows = connection.execute(page).mappings().all()
        return [_from_row(row).opened(self._cipher) for row in rows]

    def set_status(self, subscription_id: str, status: Status) -> Subscription | None:
        """Pause, disable or activate; None when there is no such subscription.

        In the same transaction: activated, what was parked becomes a job of the scheduler; else such a job stops.
        """
        return self._write(subscription_id, lambda before, _now_ms: replace(before, status=status))

    def update(self, subscription_id: str, change: Callable[[Subscription], Changes]) -> Subscription | None:
        """Apply what ``change`` says about the subscription as it is; None when there is none.

        Under the lock of all writers, so that two changes at once do not lose each other's fields. What ``change``
        raises changes nothing and comes out here. A change that changes nothing leaves version and time as they are.
        """
        return self._write(subscription_id, lambda before, _now_ms: _with_keys(changed(before, change(before))))

    def rotate(self, subscription_id: str, overlap_s: int, secret: bytes | None = None) -> Created | None:
        """Fresh keys, and an incoming secret if given; those before are good for ``overlap_s`` seconds more.

        None when there is no such subscription. Raises TooManyKeys.
        """
        signing_secret = generate_signing_secret()
        key, private_key = decode_signing_secret(signing_secret), generate_private_key()
        after = self._write(
            subscription_id, lambda before, now_ms: rotated(before, key, secret, now_ms, overlap_s, private_key)
        )
        return Created(after, signing_secret) if after else None

    def delete(self, subscription_id: str) -> bool:
        """Leave a tombstone without secrets; False when there is no such subscription."""
        here = _where(subscription_id)
        if here is None:
            return False
        secrets = {"sealed_signing_keys": "", **dict.fromkeys(_OPTIONAL_SECRETS)}
        with self._database.transaction() as connection:
            _lock(connection)
            if connection.execute(select(_table.c.id).where(*here)).one_or_none() is None:
                return False
            gone = _stamp(connection, here, {**secrets, "deleted_at": func.clock_timestamp()})
            forget(connection, subscription_id)
            parking.deleted(connection, gone["id"], gone["tenant"])
        return True

    def parked(self, subscription_ids: Sequence[str]) -> dict[str, int]:
        """How many events each of these has in `parked`, as far as the scheduler has read; without the zeros."""
        with self._database.transaction() as connection:
            return parking.counts(connection, subscription_ids)

    def read(self, subscription_id: str) -> tuple[SealedSubscription | None, int]:
        """The subscription as it is stored, and when it was read: Postgres' clock, milliseconds."""
        here = _where(subscription_id)
        if here is None:
            return None, 0
        found = select(_table).where(*here)
        with self._database.transaction() as connection:
            read_ms = _clock_ms(connection)
            row = connection.execute(found).mappings().one_or_none()
        return (_from_row(row) if row else None), read_ms

    def changed_since(self, version: int, limit: int = _LIST_MAX) -> Sequence[Change]:
        """Changes after ``version``, in the order in which they were committed; only the last one of each id."""
        newer = select(_table).where(_table.c.version > version).order_by(_table.c.version).limit(limit)
        with self._database.transaction() as connection:
            rows = connection.execute(newer).mappings().all()
        return [_change(row) for row in rows]

    def feed_start(self, seconds: float) -> FeedStart:
        """The newest version there is, and what changed in the last ``seconds`` (without the subscriptions)."""
        with self._database.transaction() as connection:
            now_ms = _clock_ms(connection)
            # The newest version first: what is committed between the two queries is seen by changed_since().
            newest = connection.execute(select(func.coalesce(func.max(_table.c.version), 0))).scalar_one()
            since = func.clock_timestamp() - timedelta(seconds=seconds)
            lately = select(_table.c.id, _table.c.version, _table.c.updated_at).where(_table.c.updated_at >= since)
            rows = connection.execute(lately.order_by(_table.c.version)).all()
        changes = tuple(Change(str(row.id), row.version, to_ms(row.updated_at)) for row in rows)
        return FeedStart(newest, changes, since_ms=now_ms - int(seconds * 1000))

    def open(self, sealed: SealedSubscription) -> Subscription:
        """Decrypt what read() or changed_since() gave. Raises ConfigurationError when the key does not fit."""
        return sealed.opened(self._cipher)

    def interests(self, tenant: str) -> tuple[int, Sequence[Interest]]:
        """The tenant's complete set, and the newest version there was when it was read: all up to it is in the set."""
        here = (_table.c.tenant == tenant, _table.c.deleted_at.is_(None))
        with self._database.transaction() as connection:
            connection.execute(text("set transaction isolation level repeatable read"))
            newest = connection.execute(select(func.coalesce(func.max(_table.c.version), 0))).scalar_one()
            rows = connection.execute(select(_table.c.id, _table.c.event_types).where(*here)).all()
        return newest, [Interest(str(row.id), tuple(row.event_types)) for row in rows]

    def _check_room(self, connection: Connection, tenant: str) -> None:
        """Under the lock of all writers: two at once do not both get the last place."""
        if self._most_per_tenant is None:
            return
        here = (_table.c.tenant == tenant, _table.c.deleted_at.is_(None))
        if connection.execute(select(func.count()).where(*here)).scalar_one() >= self._most_per_tenant:
            raise TenantFull(f"{self._most_per_tenant} subscriptions")

    def _write(self, subscription_id: str, step: Callable[[Subscription, int], Subscription]) -> Subscription | None:
        """Read, ``step(before, now_ms)``, write: under the lock. None when there is no such subscription."""
        here = _where(subscription_id)
        if here is None:
            return None
        with self._database.transaction() as connection:
            _lock(connection)
            row = connection.execute(select(_table).where(*here)).mappings().one_or_none()
            if row is None:
                return None
            now_ms = _clock_ms(connection)
            before = _from_row(row).opened(self._cipher)
            after = step(before, now_ms)
            if after == before:
                return before
            values = {
                **_columns(after, self._cipher),
                "sealed_previous": _previous(after).sealed(self._cipher, now_ms),
                "sealed_private_keys": after.private_keys.sealed(self._cipher, now_ms),
            }
            stamped = _stamp(connection, here, values)
            if after.status != before.status:
                # Stamping waited for whoever was noting parked records, and the next waits for us.
                parking.status_changed(connection, stamped["id"], after.tenant, after.status)
            return _from_row(stamped).opened(self._cipher)


def disable(
    database: Database,
    subscription_id: str,
    version: int,
    reason: DisabledReason,
    telling: Callable[[int], Iterable[Record]],
) -> bool:
    """Disable what is active and still this version; False: it is not, and nothing was changed. Needs no key.

    ``telling(disabled_ms)`` gives the records that tell of it, for the outbox. Blocking. Raises StoreUnavailable.
    """
    known = _where(subscription_id)
    if known is None:
        return False
    here = (*known, _table.c.version == version, _table.c.status == "active")
    with database.transaction() as connection:
        _lock(connection)
        if connection.execute(select(_table.c.id).where(*here)).one_or_none() is None:
            return False
        row = _stamp(connection, here, {"status": "disabled"})
        parking.status_changed(connection, row["id"], row["tenant"], "disabled")
        note_disabled(connection, subscription_id, reason, row["updated_at"])
        outbox.put(connection, telling(to_ms(row["updated_at"])))
    return True


def _columns(chosen: NewSubscription | Subscription, cipher: Cipher) -> dict[str, Any]:
    """What somebody chose, as it is stored."""
    columns: dict[str, Any] = {
        "tenant": chosen.tenant,
        "target_url": chosen.target_url,
        "event_types": list(chosen.event_types),
        "description": chosen.description,
        "sealed_secret": None if chosen.secret is None else cipher.seal(chosen.secret),
        "sealed_headers": cipher.seal(orjson.dumps(chosen.headers)) if chosen.headers else None,
        "timeout_seconds": chosen.timeout_seconds,
        "retry_delays": None if chosen.retry_delays is None else list(chosen.retry_delays),
        "signature_scheme": chosen.signature_scheme,
        "rate_limit": chosen.rate_limit,
        "max_in_flight": chosen.max_in_flight,
        "signing_versions": list(chosen.signing_versions),
    }
    if isinstance(chosen, Subscription):
        columns |= {"status": chosen.status, "sealed_signing_keys": _sealed_keys(chosen.signing_keys, cipher)}
    return columns


def _with_keys(subscription: Subscription) -> Subscription:
    """With a private key, once v1a is asked for."""
    if "v1a" not in subscription.signing_versions or subscription.private_keys.current:
        return subscription
    return replace(subscription, private_keys=PrivateKeys(generate_private_key()))


def _sealed_keys(keys: Sequence[bytes], cipher: Cipher) -> str:
    return cipher.seal(orjson.dumps([base64.b64encode(key).decode() for key in keys]))


def _previous(subscription: Subscription) -> Previous:
    secret, until_ms = subscription.previous_secret, subscription.previous_secret_until_ms
    return Previous(
        None if secret is None or until_ms is None else ExpiringKey(secret, until_ms),
        subscription.previous_signing_keys,
    )


def _where(subscription_id: str) -> tuple[ColumnElement[bool], ...] | None:
    """The row of a subscription that is not deleted; None: the id is no UUID."""
    canonical = canonical_id(subscription_id)
    return None if canonical is None else (_table.c.id == UUID(canonical), _table.c.deleted_at.is_(None))


def _conditions(wanted: ListFilter) -> Iterator[ColumnElement[bool]]:
    yield _table.c.deleted_at.is_(None)
    if wanted.status is not None:
        yield _table.c.status == wanted.status
    if wanted.tenant is not None:
        yield _table.c.tenant == wanted.tenant
    if wanted.event_type is not None:
        overlaps = _table.c.event_types.bool_op("&&")
        named = overlaps(cast(_filters_for(wanted.event_type), ARRAY(Text)))
        yield named if is_operational(wanted.event_type) else or_(_table.c.event_types == [], named)
    if wanted.target_url is not None:
        yield _table.c.target_url.startswith(wanted.target_url, autoescape=True)


def _filters_for(event_type: str) -> list[str]:
    """Every filter that lets this type through: itself, and ``a.*`` for each beginning that ends with a dot."""
    return [event_type, *(event_type[: at + 1] + "*" for at, character in enumerate(event_type) if character == ".")]


def _stamp(connection: Connection, here: tuple[ColumnElement[bool], ...], values: dict[str, Any]) -> RowMapping:
    """Write under the next version; the lock is held and the row is there."""
    stamped = {**values, "version": _next_version(connection), "updated_at": func.clock_timestamp()}
    return connection.execute(update(_table).where(*here).values(stamped).returning(_table)).mappings().one()


def _lock(connection: Connection) -> None:
    """One lock until the commit, so that whoever reads version n has seen all before n."""
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK_SUBSCRIPTION_WRITES})


def _next_version(connection: Connection) -> int:
    """The lock is held: versions are in the order of commits."""
    return int(connection.execute(text("select nextval('subscriptions_version')")).scalar_one())


def _clock_ms(connection: Connection) -> int:
    now = text("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
    return int(connection.execute(now).scalar_one())


def _change(row: RowMapping) -> Change:
    sealed = None if row["deleted_at"] else _from_row(row)
    return Change(str(row["id"]), row["version"], to_ms(row["updated_at"]), sealed)


def _from_row(row: RowMapping) -> SealedSubscription:
    values = {name: row[name] for name in SealedSubscription.__slots__}
    values["id"] = str(row["id"])
    values["event_types"] = tuple(row["event_types"])
    values["signing_versions"] = tuple(row["signing_versions"])
    values["retry_delays"] = None if row["retry_delays"] is None else tuple(row["retry_delays"])
    return SealedSubscription(**values)
