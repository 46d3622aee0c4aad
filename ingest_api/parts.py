"""What the API stands on: made from the settings, started and stopped together.

Only a wrong setting keeps it from starting: without a store it answers what it can and says what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from ingest_api.health import Check, HealthWatch
from ingest_api.idempotency import Idempotency
from ingest_api.key_cache import KeyCache
from ingest_api.key_ring import KeyRing
from ingest_api.key_rows import KeyRows
from ingest_api.recent import RecentlyAccepted
from shared.api_key_store import ApiKeyStore
from shared.attempt_log import AttemptLog
from shared.clock import Clock, SystemClock
from shared.database import Database
from shared.encryption import Cipher
from shared.endpoint_states import EndpointStates
from shared.errors import NotConfirmed, StoreUnavailable
from shared.kafka import Producer
from shared.settings import Settings
from shared.subscriptions import SubscriptionMap, SubscriptionStore
from shared.topics import Topics

#: Connecting to Kafka goes on in the background after this.
_FIRST_CONNECT_S = 2.0
_KAFKA_CHECK_S = 3.0
#: The answer lists every topic of the cluster: too much for once a second where there are thousands.
_ASK_BROKER_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Every client and every memory of the process."""

    clock: Clock
    producer: Producer
    subscriptions: SubscriptionMap
    store: SubscriptionStore
    attempt_log: AttemptLog
    endpoints: EndpointStates
    key_store: ApiKeyStore
    keys: KeyRing
    #: Fixed at start: without ADMIN_API_KEY nobody asks what the ring knows, and it asks nobody.
    keys_asked: bool
    recent: RecentlyAccepted
    key_cache: KeyCache
    key_rows: KeyRows
    idempotency: Idempotency
    watch: HealthWatch
    database: Database

    async def start(self) -> None:
        """Raises ConfigurationError: ENCRYPTION_KEY is not the key of this database."""
        await self.subscriptions.start()
        if self.keys_asked:
            await self.keys.start()
        self.key_rows.start()
        with contextlib.suppress(NotConfirmed, TimeoutError):
            async with asyncio.timeout(_FIRST_CONNECT_S):
                await self.producer.start()
        await self.watch.start()

    async def stop(self) -> None:
        """Bounded: the producer flushes first, and each part has a deadline of its own."""
        await self.watch.stop()
        await self.producer.stop()
        await self.keys.stop()
        await self.idempotency.stop()
        await self.key_rows.stop()
        await self.key_cache.close()
        await self.subscriptions.stop()
        self.database.close()


def build_parts(settings: Settings) -> Parts:
    """Connects to nothing yet. Raises ConfigurationError for a URL or a key that cannot be used."""
    clock = SystemClock()
    producer = Producer(settings, clock=clock)
    subscriptions = SubscriptionMap(settings, clock=clock)
    database = Database(settings.database_url.get_secret_value())
    attempt_log = AttemptLog(database, settings.topics)
    key_cache = KeyCache(settings.redis_url.get_secret_value(), prefix=settings.topic_prefix, clock=clock)
    key_rows = KeyRows(database, clock)
    checks = _checks(producer, subscriptions, attempt_log, clock, settings.topics)
    off = frozenset() if settings.redis_url.get_secret_value() else frozenset({"redis"})
    return Parts(
        clock=clock,
        producer=producer,
        subscriptions=subscriptions,
        store=SubscriptionStore(
            database,
            Cipher(settings.encryption_key.get_secret_value()),
            most_per_tenant=settings.max_subscriptions_per_tenant,
        ),
        attempt_log=attempt_log,
        endpoints=EndpointStates(database),
        key_store=ApiKeyStore(database),
        keys=KeyRing(settings.database_url.get_secret_value(), clock=clock),
        keys_asked=bool(settings.admin_api_key.get_secret_value()),
        recent=RecentlyAccepted(),
        key_cache=key_cache,
        key_rows=key_rows,
        idempotency=Idempotency(key_cache, key_rows, clock),
        watch=HealthWatch(checks, off=off, clock=clock),
        database=database,
    )


def _checks(
    producer: Producer, subscriptions: SubscriptionMap, attempt_log: AttemptLog, clock: Clock, topics: Topics
) -> dict[str, Check]:
    """Postgres and Redis are asked by the subscription map anyway; its word is taken."""
    seen_alarms = ""
    kafka_trouble, asked_s = "not asked yet", 0.0
    needed = (topics.deliveries, topics.events)

    async def kafka() -> str:
        """The producer's own word each time; a broker is asked now and then, and each time while there is trouble."""
        nonlocal kafka_trouble, asked_s
        if producer.trouble or kafka_trouble or clock.monotonic_s() - asked_s >= _ASK_BROKER_EVERY_S:
            kafka_trouble = await producer.check(_KAFKA_CHECK_S, needed)
            asked_s = clock.monotonic_s()
        return kafka_trouble

    async def postgres() -> str:
        return subscriptions.postgres_trouble

    async def redis() -> str:
        return subscriptions.redis_trouble

    async def records() -> str:
        """Open `records_skipped` alarms. While Postgres is down: what it said last."""
        nonlocal seen_alarms
        with contextlib.suppress(StoreUnavailable):
            alarms = await asyncio.to_thread(attempt_log.alarms)
            seen_alarms = f"records_skipped: {len(alarms)} open alarm(s)" if alarms else ""
        return seen_alarms

    return {"kafka": kafka, "postgres": postgres, "redis": redis, "records": records}
