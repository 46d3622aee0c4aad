"""How any client reaches the brokers, and the sizes they take: options, consumers, record limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.group import LeaveGroupRequest

from shared import kafka_connection
from shared.errors import ConfigurationError
from shared.even_assignor import EvenAssignor
from shared.settings import Settings
from shared.topics import HEADER_ROOM_BYTES

log = logging.getLogger(__name__)

kafka_connection.use()

SESSION_TIMEOUT_MS = 10_000
_FAREWELL_S = 1.0


def client_options(settings: Settings) -> dict[str, Any]:
    """Bootstrap servers and security, for any aiokafka client. Raises ConfigurationError for a TLS file."""
    options: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in settings.kafka_bootstrap_servers.split(",") if part.strip()],
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = _tls(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return options


def max_record_bytes(topic: str, settings: Settings) -> int:
    """What a record of ``topic`` may weigh (Record.size_bytes)."""
    limit = settings.max_payload_bytes + HEADER_ROOM_BYTES
    return limit + HEADER_ROOM_BYTES if topic == settings.topics.dead_letter else limit


def max_batch_bytes(topic: str, settings: Settings) -> int:
    """The topic's ``max.message.bytes``: its largest record, which lz4 may make longer (19 bytes, and 8 per 64 KiB)."""
    limit = max_record_bytes(topic, settings)
    return limit + limit // 4096 + 64


def largest_record_bytes(settings: Settings) -> int:
    """The heaviest record there can be in any of our topics."""
    return max_record_bytes(settings.topics.dead_letter, settings)


def new_consumer(
    settings: Settings,
    *,
    group: str,
    topics: Sequence[str] = (),
    pattern: str | None = None,
    listener: Any = None,
    **overrides: Any,
) -> AIOKafkaConsumer:
    """A consumer that is not started: from the earliest record, commits only what it is told to.

    ``pattern`` is a regular expression over topic names, instead of ``topics``. ``overrides`` are aiokafka's.
    """
    options = client_options(settings) | {
        "group_id": group,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "session_timeout_ms": SESSION_TIMEOUT_MS,
        "heartbeat_interval_ms": 3000,
        # aiokafka keeps what a member was assigned on the class: each consumer has one of its own.
        "partition_assignment_strategy": (type("Even", (EvenAssignor,), {}),),
        "max_poll_records": 1000,
        "fetch_max_wait_ms": 500,
        "max_partition_fetch_bytes": max(1024 * 1024, largest_record_bytes(settings)),
        "metadata_max_age_ms": 10_000,  # a new tier is seen within 10 s
        "retry_backoff_ms": 200,
        **overrides,
    }
    consumer = AIOKafkaConsumer(**options)
    if topics or pattern:
        consumer.subscribe(topics=list(topics), pattern=pattern, listener=listener)
    return consumer


async def leave(consumer: AIOKafkaConsumer, within_s: float = 3.0) -> None:
    """Leave the group within a bounded time, whatever state Kafka and the group are in."""
    # A task of its own: while fetches fail, aiokafka's stop ends in a CancelledError that nobody asked for.
    leaving = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([leaving], timeout=within_s)
    if not leaving.done():
        leaving.cancel()
        await asyncio.wait([leaving], timeout=_FAREWELL_S)
        await _leave_at_once(consumer)
    elif not leaving.cancelled() and (error := leaving.exception()) is not None:
        log.warning("leave_failed", extra={"error": f"{type(error).__name__}: {error}"})


async def _leave_at_once(consumer: AIOKafkaConsumer) -> None:
    """What aiokafka's stop had yet to do; it waits for a join, which waits for the slowest member of the group."""
    coordinator, client = consumer._coordinator, consumer._client
    try:
        async with asyncio.timeout(_FAREWELL_S):
            if isinstance(coordinator, GroupCoordinator):
                await coordinator._stop_heartbeat_task()
                if coordinator.coordinator_id is not None and coordinator.member_id:
                    # Not over the connection that waits for the join: the broker reads no further on it.
                    farewell = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
                    await client.send(coordinator.coordinator_id, farewell)
            await consumer._fetcher.close()
            await client.close()
    except (KafkaError, TimeoutError) as error:
        log.warning("leave_failed", extra={"error": f"{type(error).__name__}: {error}"})


def _tls(settings: Settings) -> Any:
    try:
        return create_ssl_context(
            cafile=settings.kafka_ssl_cafile or None,
            certfile=settings.kafka_ssl_certfile or None,
            keyfile=settings.kafka_ssl_keyfile or None,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"KAFKA_SSL_*: {error}") from None
