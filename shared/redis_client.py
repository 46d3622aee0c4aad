"""How any process reaches Redis: short waits and no retries, because everything works without it."""

from __future__ import annotations

from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared.errors import ConfigurationError


def redis_client(url: str, *, timeout_s: float, connections: int) -> Any:
    """A client that is not connected yet; None for "". Raises ConfigurationError for a URL that cannot be used.

    Whoever finds all ``connections`` in use waits for one, at most ``timeout_s``: a cold start asks for more at once,
    which is no trouble of Redis.
    """
    if not url:
        return None
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=connections,
        )
        return redis.Redis.from_pool(pool)
    except ValueError:
        raise ConfigurationError("REDIS_URL: not a URL such as redis://127.0.0.1:6379/0") from None
