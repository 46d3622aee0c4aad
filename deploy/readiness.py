"""When a part of the stack is ready: it did once what it is for. An open port is not enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import psycopg2
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

#: Nothing of ours reads it; one record is written to it at each start.
PROBE = "hooklog.ready"
_ONE_ANSWER_S = 10.0
#: As SQLAlchemy writes it: ``postgresql+psycopg2://``.
_SCHEME = re.compile(r"^postgres(ql)?(\+\w+)?://")
_NO_SUCH_DATABASE = re.compile(r'database ".*" does not exist')

#: "" when ready, else in a few words why not yet.
Ready = Callable[[], Awaitable[str]]


async def kafka_answers(options: Mapping[str, Any]) -> str:
    """Metadata from a cluster that is not ours, to which nothing is written. ``options``: as aiokafka takes them."""
    admin = AIOKafkaAdminClient(request_timeout_ms=5000, **options)
    try:
        await admin.start()
        await admin.list_topics()
    except (KafkaError, OSError) as error:
        return _words(error)
    finally:
        await admin.close()
    return ""


async def kafka_ready(bootstrap_servers: str, replicas: int = 1) -> str:
    """One produce and one group join, the two things that come last.

    ``replicas`` is how many brokers there are. Of several, one is asked: it has to be among those that serve.
    """
    if why := await _closed(bootstrap_servers):
        return why
    try:
        if why := await _no_probe_topic(bootstrap_servers, replicas):
            return why
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, request_timeout_ms=5000)
        try:
            await producer.start()
            await producer.send_and_wait(PROBE, b"ready")
        finally:
            await producer.stop()
        consumer = AIOKafkaConsumer(PROBE, bootstrap_servers=bootstrap_servers, group_id=PROBE, request_timeout_ms=5000)
        try:
            await consumer.start()
        finally:
            await consumer.stop()
    except (KafkaError, OSError) as error:
        return _words(error)
    return ""


async def _closed(bootstrap_servers: str) -> str:
    """Why nobody listens, "" when somebody does: asked first, it costs next to nothing."""
    host, _, port = bootstrap_servers.split(",")[0].rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        return _words(error)
    writer.close()
    return ""


async def _no_probe_topic(bootstrap_servers: str, replicas: int) -> str:
    """Why the topic cannot be made, "" when it is there."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=5000)
    try:
        await admin.start()
        brokers = (await admin.describe_cluster())["brokers"]
        if not brokers:  # aiokafka cannot create anything then
            return "it knows no broker yet"
        if replicas > 1 and int(bootstrap_servers.rpartition(":")[2]) not in {broker["port"] for broker in brokers}:
            return "the other brokers wait for it"
        topic = NewTopic(PROBE, 1, replicas, topic_configs={"retention.ms": "3600000"})
        [answer] = (await admin.create_topics([topic])).to_object()["topic_errors"]
    finally:
        await admin.close()
    code = answer["error_code"]
    return "" if code in (0, TopicAlreadyExistsError.errno) else answer.get("error_message") or str(for_code(code))


async def postgres_ready(database_url: str) -> str:
    """One query; a server that says that this database is missing is ready as well: it will be created."""
    return await asyncio.to_thread(_query_once, _SCHEME.sub("postgresql://", database_url))


def _query_once(database_url: str) -> str:
    try:
        connection = psycopg2.connect(database_url, connect_timeout=2)
    except psycopg2.Error as error:
        return "" if _NO_SUCH_DATABASE.search(str(error)) else _words(error)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
    except psycopg2.Error as error:
        return _words(error)
    finally:
        connection.close()
    return ""


async def redis_ready(redis_url: str) -> str:
    """One ping."""
    client = redis.asyncio.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)
    try:
        await client.ping()
    except (redis.RedisError, OSError) as error:
        return _words(error)
    finally:
        await client.aclose()
    return ""


async def http_ready(url: str) -> str:
    """A 200 from /ready."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=3) as client:
            answer = await client.get(url)
    except httpx.HTTPError as error:
        return _words(error)
    return "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:200]}"


async def ask(ready: Ready) -> str:
    """One answer, within a bounded time."""
    try:
        async with asyncio.timeout(_ONE_ANSWER_S):
            return await ready()
    except TimeoutError:
        return "no answer in time"


async def until_ready(ready: Ready, *, within_s: float, every_s: float = 0.1) -> str:
    """Ask until ready; "" then, else why not when the time was up."""
    deadline = asyncio.get_running_loop().time() + within_s
    while why := await ask(ready):
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(every_s)
    return why


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
