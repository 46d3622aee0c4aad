"""Idempotency keys in Postgres: one unique row each, for 24 hours. A Postgres out of reach is Unasked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ingest_api.batches import Batches
from ingest_api.idempotency import KEPT_S, Claim, Fresh, Unasked
from shared.clock import Clock
from shared.database import Database
from shared.errors import StoreUnavailable, ValuesRefused

log = logging.getLogger(__name__)

_TIMEOUT_S = 1.0
_MOST_AT_ONCE = 500
_SWEEP_EVERY_S = 60.0
_SWEPT_AT_ONCE = 1_000
#: A sweep ends after so many batches at the latest; the next one goes on.
_MOST_SWEEPS = 100

_GIVEN = "unnest(cast(:names as bytea[]), cast(:ids as text[]), cast(:hashes as bytea[]))"
_COLUMNS = "idempotency_keys as k (name, webhook_id, body_hash, confirmed, expires_at)"
#: A row that has expired is as good as none. Rows are taken in the order of their names: two processes never cross.
_CLAIM = text(
    f"insert into {_COLUMNS} select *, false, now() + make_interval(secs => :kept_s) from {_GIVEN} order by 1"  # noqa: S608
    " on conflict (name) do update set webhook_id = excluded.webhook_id, body_hash = excluded.body_hash,"
    " confirmed = false, expires_at = excluded.expires_at where k.expires_at <= now() returning k.name"
)
_CONFIRM = text(
    f"insert into {_COLUMNS} select *, true, now() + make_interval(secs => :kept_s) from {_GIVEN} order by 1"  # noqa: S608
    " on conflict (name) do update set webhook_id = excluded.webhook_id, body_hash = excluded.body_hash,"
    " confirmed = true"
)
_READ = text(
    "select name, webhook_id, body_hash, confirmed from idempotency_keys where name = any(cast(:names as bytea[]))"
)
_SWEEP = text(
    "delete from idempotency_keys where name = any(array("
    "select name from idempotency_keys where expires_at <= now() limit :most for update skip locked))"
)


class _Call(NamedTuple):
    name: bytes
    claim: Claim
    overwrite: bool


class KeyRows:
    """One transaction at a time, with whatever waits."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # One for the batches and one for the sweep: a long sweep must not make claims wait.
        self._threads = ThreadPoolExecutor(2, "idempotency-keys")
        self._sweeping: asyncio.Task[None] | None = None
        self._batches: Batches[_Call, Fresh | Claim] = Batches(
            "postgres keys",
            self._run,
            (StoreUnavailable, ValuesRefused),
            clock,
            most=_MOST_AT_ONCE,
            timeout_s=_TIMEOUT_S,
        )

    def start(self) -> None:
        """Begin to delete what has expired, now and then."""
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="idempotency-sweep")

    async def stop(self) -> None:
        """Without waiting for a Postgres that stands still."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self._batches.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def claim(self, name: bytes, claim: Claim) -> Fresh | Claim | Unasked:
        answer = await self._batches.call(_Call(name, claim, overwrite=False))
        return Unasked() if answer is None else answer

    async def put(self, name: bytes, claim: Claim) -> None:
        """Of a confirmed claim; a pending one is written by `claim`."""
        if claim.confirmed:
            await self._batches.call(_Call(name, claim, overwrite=True))

    def sweep(self) -> int:
        """Blocking: delete what has expired, in batches; how many rows. Raises StoreUnavailable."""
        deleted = 0
        for _ in range(_MOST_SWEEPS):
            with self._database.transaction() as connection:
                batch: int = connection.execute(_SWEEP, {"most": _SWEPT_AT_ONCE}).rowcount
            deleted += batch
            if batch < _SWEPT_AT_ONCE:
                break
        return deleted

    async def _run(self, calls: Sequence[_Call]) -> list[Fresh | Claim]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._write, calls)

    def _write(self, calls: Sequence[_Call]) -> list[Fresh | Claim]:
        """Confirmations first, so that a claim of the same batch sees them."""
        confirmed = {call.name: call.claim for call in calls if call.overwrite}
        claimed: dict[bytes, Claim] = {}
        for call in calls:
            if not call.overwrite:
                claimed.setdefault(call.name, call.claim)
        with self._database.transaction() as connection:
            if confirmed:
                connection.execute(_CONFIRM, _arguments(confirmed))
            there = _claim(connection, claimed) if claimed else {}
        return [
            Fresh() if call.overwrite else _answer(call.claim, claimed[call.name], there.get(call.name))
            for call in calls
        ]

    async def _sweep_for_ever(self) -> None:
        while True:
            await self._clock.sleep(_SWEEP_EVERY_S)
            with contextlib.suppress(StoreUnavailable):
                deleted = await asyncio.get_running_loop().run_in_executor(self._threads, self.sweep)
                log.debug("swept", extra={"idempotency_keys": deleted})


def _claim(connection: Connection, claims: dict[bytes, Claim]) -> dict[bytes, Claim]:
    """Write what nobody had claimed; what stands there already, by name."""
    fresh = {bytes(row[0]) for row in connection.execute(_CLAIM, _arguments(claims))}
    names = [name for name in claims if name not in fresh]
    if not names:
        return {}
    rows = connection.execute(_READ, {"names": names})
    return {
        bytes(name): Claim(webhook_id, bytes(body_hash), confirmed) for name, webhook_id, body_hash, confirmed in rows
    }


def _answer(claim: Claim, first: Claim, there: Claim | None) -> Fresh | Claim:
    """The first of a name in its batch is the one that claimed it; the others find its claim."""
    return there or (Fresh() if claim is first else first)


def _arguments(claims: dict[bytes, Claim]) -> dict[str, Any]:
    return {
        "names": list(claims),
        "ids": [claim.webhook_id for claim in claims.values()],
        "hashes": [claim.body_hash for claim in claims.values()],
        "kept_s": KEPT_S,
    }
