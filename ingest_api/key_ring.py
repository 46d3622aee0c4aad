"""All API keys that work, in memory: no request waits for Postgres, and a revocation is known within a second.

Because the set is complete, an unknown key needs no look-up of its own: at most it waits for the next reading of the
newest version, which all unknown keys share. However many are tried, Postgres is asked ten times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from shared.api_key_store import ApiKeyStore
from shared.api_keys import ApiKey, is_key, key_hash
from shared.clock import Clock
from shared.database import Database
from shared.errors import StoreUnavailable

log = logging.getLogger(__name__)

_POLL_S = 0.5
#: Between two readings, however many unknown keys come.
_LEAST_GAP_S = 0.1
#: A reading that takes longer: Postgres stands still.
_CALL_TIMEOUT_S = 2.0


class KeyRing:
    """What this process knows about keys. While Postgres is out of reach it goes on with what it knew last."""

    def __init__(self, database_url: str, *, clock: Clock) -> None:
        """Connects to nothing yet. Raises ConfigurationError for a URL that cannot be used."""
        self._database = Database(database_url, pool_size=1)
        self._store = ApiKeyStore(self._database)
        self._clock = clock
        self._keys: Mapping[bytes, ApiKey] = {}
        self._version: int | None = None
        self._trouble = "not asked yet"
        self._thread = ThreadPoolExecutor(1, "api-keys")
        self._wanted = asyncio.Event()
        #: Of the next reading to begin: done when that has ended.
        self._next: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow changes; a Postgres out of reach is waited for in the background."""
        await self._read()
        self._next = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(), name="api-keys")

    async def stop(self) -> None:
        """Without waiting for a Postgres that stands still."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._database.close()

    def peek(self, key: bytes) -> ApiKey | None:
        """What is in memory. A dict of SHA-256 values tells nothing by its timing: nobody can aim at a hash."""
        return self._keys.get(key_hash(key))

    async def get(self, key: bytes) -> ApiKey | None:
        """The same, after a look at whether there are newer keys. Raises StoreUnavailable: nobody can tell now."""
        known = self.peek(key)
        if known is not None:
            return known
        if self._trouble:
            raise StoreUnavailable(self._trouble)
        if not is_key(key):
            return None
        await self.refresh()
        return self.peek(key)

    async def refresh(self) -> None:
        """Until a reading that began after this call has ended. Raises StoreUnavailable. Not started: nothing."""
        if self._next is None:
            return
        self._wanted.set()
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await asyncio.shield(self._next)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {_CALL_TIMEOUT_S:g} s") from None
        if self._trouble:
            raise StoreUnavailable(self._trouble)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._clock.sleep(_LEAST_GAP_S)
            await self._wanted_or(_POLL_S - _LEAST_GAP_S)
            self._wanted.clear()
            ended, self._next = self._next, loop.create_future()
            await self._read()
            if ended is not None:
                ended.set_result(None)

    async def _wanted_or(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _read(self) -> None:
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._store.newer_than, self._version)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await work
        except (StoreUnavailable, TimeoutError) as error:
            if not self._trouble:
                log.warning("api keys cannot be read", extra={"error": str(error)})
            self._trouble = str(error) or f"no answer within {_CALL_TIMEOUT_S:g} s"
            return
        self._trouble = ""
        if found is not None:
            self._keys, self._version = found.by_hash, found.version
