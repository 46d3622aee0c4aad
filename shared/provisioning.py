"""The topics we create, how they are configured, and nothing that deletes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NodeNotReadyError, TopicAlreadyExistsError, for_code

from shared.broker import client_options, max_batch_bytes
from shared.errors import ConfigurationError, NotConfirmed
from shared.settings import Settings

log = logging.getLogger(__name__)

_DEAD_LETTER_RETENTION_MS = 30 * 24 * 3600 * 1000
_SEGMENT_MS = 3600 * 1000  # only closed segments give disk back when the janitor deletes
_REPLICAS_FOR_A_SPARE = 3
_SET_ON_TOPIC = 1  # config source DYNAMIC_TOPIC_CONFIG (KIP-226)
_REQUEST_TIMEOUT_MS = 15_000
_SETTLE_S = 30.0


async def ensure_topics(settings: Settings) -> list[str]:
    """Create what is missing and wait until every partition has a leader; gives the names created.

    Two processes may do this at once. Existing topics keep their partitions and configuration, but for a
    ``max.message.bytes`` that is too small for the settings, which is raised: records that we accept must fit.
    Raises NotConfirmed when no broker answers, ConfigurationError when the brokers refuse (a replication factor
    over the number of brokers, say).
    """
    admin = AIOKafkaAdminClient(request_timeout_ms=_REQUEST_TIMEOUT_MS, **client_options(settings))
    try:
        await admin.start()
        wanted = topic_configs(settings)
        existing = set(await admin.list_topics()) & set(wanted)
        created = await _create(admin, {name: wanted[name] for name in wanted if name not in existing}, settings)
        await _until(lambda: _all_led(admin, list(wanted)))
        await _raise_limits(admin, {name: wanted[name] for name in wanted if name not in created})
    except (KafkaError, OSError, TimeoutError) as error:
        raise NotConfirmed(f"topics: {type(error).__name__}: {error}") from None
    finally:
        await admin.close()
    return created


def topic_configs(settings: Settings) -> dict[str, dict[str, str]]:
    """Every topic of the settings with its configuration. Pure."""
    topics = settings.topics
    tiers = [topics.tier(delay_s) for delay_s in settings.schedule.tiers_s]
    # Of three replicas one may be away, and what is confirmed has a second disk all the same.
    in_sync = {"min.insync.replicas": "2"} if settings.replication_factor >= _REPLICAS_FOR_A_SPARE else {}
    configs = {}
    for name in (topics.events, topics.deliveries, *tiers, topics.parked, topics.dead_letter, topics.attempts):
        configs[name] = {
            "cleanup.policy": "delete",
            # Time deletes nothing that may not be done yet: the janitor does, and knows.
            "retention.ms": str(_DEAD_LETTER_RETENTION_MS) if name == topics.dead_letter else "-1",
            "retention.bytes": "-1",
            "segment.ms": str(_SEGMENT_MS),
            # In a tier the broker's append time decides when a record is due: one clock, and FIFO by construction.
            "message.timestamp.type": "LogAppendTime" if name in tiers else "CreateTime",
            "max.message.bytes": str(max_batch_bytes(name, settings)),
            **in_sync,
        }
    return configs


async def _create(
    admin: AIOKafkaAdminClient, missing: Mapping[str, Mapping[str, str]], settings: Settings
) -> list[str]:
    if not missing:
        return []
    new = [
        NewTopic(name, settings.partitions, settings.replication_factor, topic_configs=dict(configs))
        for name, configs in missing.items()
    ]
    try:
        answer = (await admin.create_topics(new)).to_object()
    except AttributeError:  # aiokafka, while the cluster has no controller
        raise NodeNotReadyError("no controller") from None
    created = []
    for topic in answer["topic_errors"]:
        error = for_code(topic["error_code"])
        if topic["error_code"] == 0:
            created.append(topic["topic"])
        elif error is not TopicAlreadyExistsError:
            if getattr(error, "retriable", False):
                raise error(topic["topic"])
            raise ConfigurationError(f"topic {topic['topic']}: {topic.get('error_message') or error.__name__}")
    if created:
        log.info("topics created", extra={"topics": created})
    return created


async def _raise_limits(admin: AIOKafkaAdminClient, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Give topics that exist the room they need, and wait until the brokers know."""
    changes = await _too_small(admin, wanted)
    if changes:
        _check_altered(await admin.alter_configs(changes))
        log.warning("max.message.bytes raised", extra={"topics": [change.name for change in changes]})
        await _until(lambda: _none_too_small(admin, wanted))


async def _too_small(admin: AIOKafkaAdminClient, wanted: Mapping[str, Mapping[str, str]]) -> list[ConfigResource]:
    """The changes to be made. AlterConfigs replaces all of a topic's own values: each change holds those too."""
    if not wanted:
        return []
    changes = []
    for response in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]):
        for resource in response.to_object()["resources"]:
            name, (own, limit) = resource["resource_name"], _own_configs(resource["config_entries"])
            needed = wanted[name]["max.message.bytes"]
            if limit is not None and limit < int(needed):
                own["max.message.bytes"] = needed
                changes.append(ConfigResource(ConfigResourceType.TOPIC, name, own))
    return changes


def _own_configs(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], int | None]:
    """What was set on the topic itself, and the limit in force wherever it comes from."""
    own, limit = {}, None
    for entry in entries:
        if entry.get("config_source") == _SET_ON_TOPIC:
            own[entry["config_names"]] = entry["config_value"]
        if entry["config_names"] == "max.message.bytes":
            limit = int(entry["config_value"])
    return own, limit


def _check_altered(responses: Sequence[Any]) -> None:
    for response in responses:
        for resource in response.to_object()["resources"]:
            if resource["error_code"]:
                error = for_code(resource["error_code"]).__name__
                raise ConfigurationError(f"max.message.bytes of {resource['resource_name']} is too small: {error}")


async def _none_too_small(admin: AIOKafkaAdminClient, wanted: Mapping[str, Mapping[str, str]]) -> bool:
    return not await _too_small(admin, wanted)


async def _all_led(admin: AIOKafkaAdminClient, names: list[str]) -> bool:
    return all(map(_is_led, await admin.describe_topics(names)))


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Brokers learn of changes a moment later than the controller, and nothing announces it: ask again."""
    async with asyncio.timeout(_SETTLE_S):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def _is_led(topic: Mapping[str, Any]) -> bool:
    partitions = topic["partitions"]
    return topic["error_code"] == 0 and bool(partitions) and all(p["leader"] >= 0 for p in partitions)
