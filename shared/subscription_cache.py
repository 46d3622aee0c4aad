"""The Redis cache of subscriptions: sealed rows for CACHE_TTL_SECONDS. Whatever goes wrong with Redis is a miss."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import orjson
from redis.exceptions import RedisError

from shared.clock import Clock
from shared.redis_client import redis_client
from shared.subscription import SealedSubscription

log = logging.getLogger(__name__)

_TIMEOUT_S = 0.25
#: After a failure Redis is left alone this long: a dead one must not cost each miss its timeout.
_PAUSE_S = 3.0
_CONNECTIONS = 16
_OUT_OF_REACH = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Cached:
    """A subscription and when it was read from Postgres (Postgres' clock)."""

    sealed: SealedSubscription
    read_ms: int


class SubscriptionCache:
    """``get`` and ``put`` never raise and never wait for long."""

    def __init__(self, redis_url: str, *, prefix: str, ttl_s: int, clock: Clock) -> None:
        """An empty URL: no cache. Raises ConfigurationError when it is no URL."""
        self._redis = redis_client(redis_url, timeout_s=_TIMEOUT_S, connections=_CONNECTIONS)
        self._prefix = f"{prefix}subscription:3:"
        self._ttl_s = ttl_s
        self._clock = clock
        self._asleep_until_s = 0.0
        #: "" or one line why Redis cannot be used.
        self.trouble = ""

    async def get(self, subscription_id: str) -> Cached | None:
        """None: not there, or nobody can tell."""
        if not self._awake():
            return None
        try:
            value = await self._redis.get(self._prefix + subscription_id)
        except _OUT_OF_REACH as error:
            self._failed(error)
            return None
        self.trouble = ""
        return _decode(value) if value else None

    async def put(self, cached: Cached) -> None:
        """Keep it for CACHE_TTL_SECONDS, if Redis can."""
        if not self._awake():
            return
        try:
            await self._redis.set(self._prefix + cached.sealed.id, _encode(cached), ex=self._ttl_s)
        except _OUT_OF_REACH as error:
            self._failed(error)

    async def check(self) -> None:
        """Ask Redis for a sign of life, so that ``trouble`` is fresh although nobody looked anything up."""
        if not self._awake():
            return
        try:
            await self._redis.ping()
        except _OUT_OF_REACH as error:
            self._failed(error)
        else:
            self.trouble = ""

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def _awake(self) -> bool:
        return self._redis is not None and self._clock.monotonic_s() >= self._asleep_until_s

    def _failed(self, error: Exception) -> None:
        if not self.trouble:
            log.warning("redis out of reach", extra={"error": type(error).__name__})
        self.trouble = f"redis: {type(error).__name__}"
        self._asleep_until_s = self._clock.monotonic_s() + _PAUSE_S


def _encode(cached: Cached) -> bytes:
    return orjson.dumps({"read_ms": cached.read_ms, **asdict(cached.sealed)})


def _decode(value: bytes) -> Cached | None:
    """None for anything that we did not write in this form."""
    try:
        body = orjson.loads(value)
        read_ms = body.pop("read_ms")
        sealed = SealedSubscription(**body)
        delays = sealed.retry_delays
        sealed = replace(
            sealed,
            event_types=tuple(sealed.event_types),
            signing_versions=tuple(sealed.signing_versions),
            retry_delays=None if delays is None else tuple(delays),
            created_at=datetime.fromisoformat(str(sealed.created_at)),
            updated_at=datetime.fromisoformat(str(sealed.updated_at)),
        )
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    return Cached(sealed, read_ms)
