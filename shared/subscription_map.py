"""Look up subscriptions without a round trip: memory, filled from Redis and Postgres, kept true by a change feed.

The feed asks Postgres for `version > last` every 500 ms. What Redis holds is used only when the feed has shown no
newer version of it, and when it was read late enough that the feed would have shown one: so no TTL is a guess.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from shared.clock import Clock, SystemClock
from shared.database import Database
from shared.encryption import Cipher, verify_key
from shared.errors import ConfigurationError, StoreUnavailable
from shared.settings import Settings
from shared.subscription import Absent, Change, FeedStart, Found, SealedSubscription, Unreachable, canonical_id
from shared.subscription_cache import Cached, SubscriptionCache
from shared.subscription_store import SubscriptionStore
from shared.tenant_sets import Interest, TenantSets

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_MAX_ENTRIES = 50_000
_MAX_ABSENT = 10_000
_MAX_LOADS = 5_000
_MAX_CHANGES = 100_000
_MAX_TENANT_LOADS = 100
#: An unknown id is looked up again after this; the feed tells of a new subscription earlier.
_ABSENT_S = 5.0
_POLL_S = 0.5
_CHANGES_A_POLL = 1000
#: Between a change's own time and its commit: a statement and a lock at their timeouts, with room.
_COMMIT_MARGIN_S = 30.0
_THREADS = 4
#: A call to Postgres that takes longer than its own timeouts: the server stands still.
_CALL_TIMEOUT_S = 5.0
_REDIS_CHECK_S = 5.0
_NO_CHANGE = Change("", 0, 0)


class SubscriptionMap:
    """What this process knows about subscriptions. ``peek`` and a warm ``get`` are a dict look-up."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, max_entries: int = _MAX_ENTRIES) -> None:
        """Connects to nothing yet. Raises ConfigurationError for a URL or key that cannot be used."""
        self._clock = clock or SystemClock()
        self._cipher = Cipher(settings.encryption_key.get_secret_value())
        self._database = Database(settings.database_url.get_secret_value(), pool_size=_THREADS + 1)
        self._store = SubscriptionStore(self._database, self._cipher)
        self._cache = SubscriptionCache(
            settings.redis_url.get_secret_value(),
            prefix=settings.topic_prefix,
            ttl_s=settings.cache_ttl_seconds,
            clock=self._clock,
        )
        self._horizon_s = settings.cache_ttl_seconds + 2 * _COMMIT_MARGIN_S
        self._max_entries = max_entries
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._loads: dict[str, asyncio.Task[Found | Absent | Unreachable]] = {}
        self._tenants = TenantSets()
        self._tenant_loads: dict[str, asyncio.Task[tuple[Interest, ...] | Unreachable]] = {}
        self._known = KnownChanges(self._horizon_s)
        self._threads = ThreadPoolExecutor(_THREADS, "subscriptions")
        self._feed_thread = ThreadPoolExecutor(1, "subscription-feed")
        self._task: asyncio.Task[None] | None = None
        self._polling = asyncio.Lock()
        self._coming_poll: asyncio.Task[None] | None = None
        self._trouble = "postgres: not asked yet"

    @property
    def postgres_trouble(self) -> str:
        """Empty, or one line why the change feed cannot be read."""
        return self._trouble

    @property
    def redis_trouble(self) -> str:
        """Empty, or one line why Redis is not used."""
        return self._cache.trouble

    async def start(self) -> None:
        """Begin to follow changes; a Postgres out of reach is waited for in the background.

        Raises ConfigurationError when ENCRYPTION_KEY is not the key of this database.
        """
        await self._poll_once()
        await self._cache.check()
        self._task = asyncio.create_task(self._follow(), name="subscription-feed")

    async def stop(self) -> None:
        """Let go of everything, without waiting for a Postgres that stands still."""
        polls = [task for task in (self._task, self._coming_poll) if task]
        tasks = [*self._loads.values(), *self._tenant_loads.values(), *polls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._feed_thread.shutdown(wait=False, cancel_futures=True)
        self._database.close()
        await self._cache.close()

    def peek(self, subscription_id: str) -> Found | Absent | None:
        """What is in memory; None: `get` has to ask."""
        found = self._found.get(subscription_id)
        if found is not None:
            self._found.move_to_end(subscription_id)
            return found
        if self._absent.get(subscription_id, 0.0) > self._clock.monotonic_s():
            return Absent()
        return None

    async def get(self, subscription_id: str) -> Found | Absent | Unreachable:
        """Memory, then Redis, then Postgres. Unreachable when nobody can tell now. Raises nothing."""
        known = self.peek(subscription_id)
        if known is not None:
            return known
        canonical = canonical_id(subscription_id)
        if canonical is None:
            return Absent()
        if canonical != subscription_id and (known := self.peek(canonical)) is not None:
            return known
        load = self._loads.get(canonical)
        if load is None:
            if len(self._loads) >= _MAX_LOADS:
                return Unreachable()
            load = self._loads[canonical] = asyncio.create_task(self._load(canonical))
            load.add_done_callback(lambda _task: self._loads.pop(canonical, None))
        return await asyncio.shield(load)

    async def of_tenant(self, tenant: str) -> Sequence[Interest] | Unreachable:
        """Every subscription of the tenant that is not deleted, as of this call or later. Raises nothing.

        From memory and one look for changes, which all who ask at once share: an event posted right after a
        subscription was made must reach it. While Postgres is out of reach, as it is in memory; Unreachable when it is
        not there: an incomplete set would lose deliveries.
        """
        if under_way := self._tenant_loads.get(tenant):
            await asyncio.shield(under_way)  # it may have read before this call
        if self._tenants.get(tenant) is not None:
            await self._catch_up()
        if (known := self._tenants.get(tenant)) is not None:
            return known
        load = self._load_of(tenant)
        return Unreachable() if load is None else await asyncio.shield(load)

    def peek_tenant(self, tenant: str) -> Sequence[Interest] | None:
        """The set in memory, at most a second old, without a round trip; else None, and it will be there soon."""
        known = self._tenants.get(tenant)
        if known is None:
            self._load_of(tenant)
        return known

    def _load_of(self, tenant: str) -> asyncio.Task[tuple[Interest, ...] | Unreachable] | None:
        """One load for all who ask; None: too many others are under way."""
        load = self._tenant_loads.get(tenant)
        if load is None and len(self._tenant_loads) < _MAX_TENANT_LOADS:
            load = self._tenant_loads[tenant] = asyncio.create_task(self._load_tenant(tenant))
            load.add_done_callback(lambda _task: self._tenant_loads.pop(tenant, None))
        return load

    async def _load_tenant(self, tenant: str) -> tuple[Interest, ...] | Unreachable:
        try:
            while True:
                version, interests = await self._call(self._threads, self._store.interests, tenant)
                # What the feed has shown while we were reading is in the set, or it is read again.
                if self._known.version <= version:
                    break
        except StoreUnavailable as error:
            self._trouble = f"postgres: {error}"
            return Unreachable()
        self._tenants.put(tenant, version, interests)
        return tuple(interests)

    async def _load(self, subscription_id: str) -> Found | Absent | Unreachable:
        cached = await self._cache.get(subscription_id)
        try:
            if cached is not None and self._known.covers(cached):
                # Sealed by a key that was left out since: Postgres has it sealed anew.
                with contextlib.suppress(ConfigurationError):
                    return self._remember(cached.sealed)
            return await self._load_from_postgres(subscription_id)
        except StoreUnavailable as error:
            self._trouble = f"postgres: {error}"
        except ConfigurationError as error:
            log.error("subscription cannot be opened", extra={"subscription_id": subscription_id, "error": str(error)})
        return Unreachable()

    async def _load_from_postgres(self, subscription_id: str) -> Found | Absent:
        while True:
            seen = self._known.version
            sealed, read_ms = await self._call(self._threads, self._store.read, subscription_id)
            # The feed may have shown a newer version while we were reading.
            if self._known.newest(subscription_id) <= (sealed.version if sealed else seen):
                break
        if sealed is None:
            self._remember_absent(subscription_id)
            return Absent()
        found = self._remember(sealed)
        await self._cache.put(Cached(sealed, read_ms))
        return found

    def _remember(self, sealed: SealedSubscription) -> Found:
        found = Found(self._store.open(sealed))
        self._absent.pop(sealed.id, None)
        self._found[sealed.id] = found
        self._found.move_to_end(sealed.id)
        if len(self._found) > self._max_entries:
            self._found.popitem(last=False)
        return found

    def _remember_absent(self, subscription_id: str) -> None:
        self._found.pop(subscription_id, None)
        self._absent[subscription_id] = self._clock.monotonic_s() + _ABSENT_S
        self._absent.move_to_end(subscription_id)
        if len(self._absent) > _MAX_ABSENT:
            self._absent.popitem(last=False)

    async def _follow(self) -> None:
        checked_s = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(_POLL_S)
            try:
                await self._poll_once()
            except ConfigurationError as error:
                # Postgres was out of reach at start. Look-ups answer Unreachable: nothing fails for our mistake.
                self._trouble = str(error)
            if self._clock.monotonic_s() - checked_s >= _REDIS_CHECK_S:
                checked_s = self._clock.monotonic_s()
                await self._cache.check()

    async def _catch_up(self) -> None:
        """See every change that is committed by now; or find that Postgres is out of reach."""
        if self._trouble:
            return
        if self._coming_poll is None:
            self._coming_poll = asyncio.create_task(self._poll_next())
        await asyncio.shield(self._coming_poll)

    async def _poll_next(self) -> None:
        async with self._polling:
            # Whoever asks from here on is too late for this one.
            self._coming_poll = None
            await self._poll_locked()

    async def _poll_once(self) -> None:
        async with self._polling:
            await self._poll_locked()

    async def _poll_locked(self) -> None:
        try:
            if not self._known.started:
                self._begin(await self._call(self._feed_thread, self._feed_start))
            else:
                await self._read_changes()
        except StoreUnavailable as error:
            if not self._trouble:
                log.warning("postgres out of reach", extra={"error": str(error)})
            self._trouble = f"postgres: {error}"
        else:
            self._trouble = ""

    def _feed_start(self) -> FeedStart:
        verify_key(self._database, self._cipher)
        return self._store.feed_start(self._horizon_s)

    def _begin(self, start: FeedStart) -> None:
        # What was loaded before may have changed unseen.
        self._found.clear()
        self._absent.clear()
        self._tenants.clear()
        self._known.start(start)

    async def _read_changes(self) -> None:
        changes: Sequence[Change] = [_NO_CHANGE] * _CHANGES_A_POLL
        while len(changes) == _CHANGES_A_POLL:
            changed_since = self._store.changed_since
            changes = await self._call(self._feed_thread, changed_since, self._known.version, _CHANGES_A_POLL)
            for change in changes:
                self._apply(change)

    def _apply(self, change: Change) -> None:
        self._known.add(change)
        self._tenants.apply(change)
        self._absent.pop(change.id, None)
        if change.id not in self._found:
            return
        if change.sealed is None:
            self._remember_absent(change.id)
        else:
            self._remember_change(change.sealed)

    def _remember_change(self, sealed: SealedSubscription) -> None:
        try:
            self._remember(sealed)
        except ConfigurationError as error:
            # Sealed by a key we were not given: what we held is no longer true, and the next look-up waits.
            del self._found[sealed.id]
            log.error("subscription cannot be opened", extra={"subscription_id": sealed.id, "error": str(error)})

    async def _call(self, threads: ThreadPoolExecutor, work: Callable[..., _T], *args: Any) -> _T:
        """Raises StoreUnavailable, also when Postgres accepts calls and answers none."""
        future = asyncio.get_running_loop().run_in_executor(threads, work, *args)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {_CALL_TIMEOUT_S:g} s") from None


class KnownChanges:
    """What the feed has shown: the newest version of each id that changed lately. Pure, and bounded."""

    def __init__(self, horizon_s: float, max_entries: int = _MAX_CHANGES) -> None:
        self._horizon_ms = int(horizon_s * 1000)
        self._max_entries = max_entries
        self._changes: OrderedDict[str, Change] = OrderedDict()
        self._since_ms: int | None = None
        #: The highest version seen.
        self.version = 0

    @property
    def started(self) -> bool:
        return self._since_ms is not None

    def start(self, start: FeedStart) -> None:
        """Begin with what changed lately."""
        self._since_ms = start.since_ms
        for change in start.changes:
            self.add(change)
        self.version = start.version

    def add(self, change: Change) -> None:
        """Changes come in the order of their versions."""
        self.version = max(self.version, change.version)
        self._changes[change.id] = replace(change, sealed=None)
        self._changes.move_to_end(change.id)
        oldest_ms = change.changed_ms - self._horizon_ms
        while len(self._changes) > self._max_entries or next(iter(self._changes.values())).changed_ms < oldest_ms:
            _id, forgotten = self._changes.popitem(last=False)
            self._since_ms = max(self._since_ms or 0, forgotten.changed_ms + 1)

    def newest(self, subscription_id: str) -> int:
        """The newest version of this id that the feed has shown; 0: it did not change lately."""
        change = self._changes.get(subscription_id)
        return change.version if change else 0

    def covers(self, cached: Cached) -> bool:
        """Is this the newest there is, as far as the feed has come?

        A change that was committed after ``cached`` was read is among the known ones, if it was read late enough.
        """
        if self._since_ms is None or cached.read_ms < self._since_ms + _COMMIT_MARGIN_S * 1000:
            return False
        return cached.sealed.version >= self.newest(cached.sealed.id)
