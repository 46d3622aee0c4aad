"""Idempotency keys in Redis: hashes and ids, for 24 hours. Whatever goes wrong with Redis is Unasked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from redis.exceptions import RedisError

from ingest_api.batches import Batches
from ingest_api.idempotency import KEPT_S, Claim, Fresh, Unasked
from shared.clock import Clock
from shared.redis_client import redis_client

_TIMEOUT_S = 0.25
_MOST_AT_ONCE = 500
#: SET with NX and GET together needs Redis 7.
_CLAIM = """
local there = redis.call('GET', KEYS[1])
if there then return there end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return false
"""


class _Call(NamedTuple):
    key: bytes
    value: bytes
    overwrite: bool


class KeyCache:
    """One connection, and a pipeline of whatever waits."""

    def __init__(self, redis_url: str, *, prefix: str, clock: Clock) -> None:
        """An empty URL: always Unasked. Raises ConfigurationError when it is no URL."""
        self._redis = redis_client(redis_url, timeout_s=_TIMEOUT_S, connections=2)
        self._prefix = f"{prefix}idempotency:1:".encode()
        self._batches: Batches[_Call, tuple[bytes | None]] = Batches(
            "redis keys",
            self._run,
            (RedisError, OSError, TimeoutError),
            clock,
            most=_MOST_AT_ONCE,
            timeout_s=2 * _TIMEOUT_S,
        )

    async def claim(self, name: bytes, claim: Claim) -> Fresh | Claim | Unasked:
        answer = await self._call(name, claim, overwrite=False)
        if answer is None:
            return Unasked()
        [there] = answer
        # What we cannot read is nothing that we could go by.
        return Fresh() if there is None else _decode(there) or Unasked()

    async def put(self, name: bytes, claim: Claim) -> None:
        await self._call(name, claim, overwrite=True)

    async def close(self) -> None:
        await self._batches.stop()
        if self._redis is not None:
            await self._redis.aclose()

    async def _call(self, name: bytes, claim: Claim, *, overwrite: bool) -> tuple[bytes | None] | None:
        if self._redis is None:
            return None
        return await self._batches.call(_Call(self._prefix + name.hex().encode(), _encode(claim), overwrite))

    async def _run(self, calls: Sequence[_Call]) -> list[tuple[bytes | None]]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                if call.overwrite:
                    pipeline.set(call.key, call.value, ex=KEPT_S)
                else:
                    pipeline.eval(_CLAIM, 1, call.key, call.value, KEPT_S)
            answers: list[Any] = await pipeline.execute()
        return [(answer if isinstance(answer, bytes) else None,) for answer in answers]


def _encode(claim: Claim) -> bytes:
    body = {"webhook_id": claim.webhook_id, "body_sha256": claim.body_hash.hex(), "confirmed": claim.confirmed}
    return orjson.dumps(body)


def _decode(value: bytes) -> Claim | None:
    """None for anything that we did not write in this form."""
    try:
        body = orjson.loads(value)
        return Claim(str(body["webhook_id"]), bytes.fromhex(body["body_sha256"]), bool(body["confirmed"]))
    except (ValueError, TypeError, KeyError):
        return None
