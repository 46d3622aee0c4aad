"""Looks for secrets in everything that a run leaves behind: logs, topics, Redis, Postgres, answers."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import redis.asyncio as redis
from aiokafka.admin import AIOKafkaAdminClient
from psycopg2 import sql

from shared.broker import client_options
from shared.settings import Settings
from tests.system import read_topic

#: Of a find: which secret (its name), and where.
Find = tuple[str, str]


def forms(secret: bytes) -> set[bytes]:
    """The secret itself and what it is written as: hex, and base64 of both alphabets with or without padding."""
    coded = {base64.b64encode(secret), base64.urlsafe_b64encode(secret)}
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), *(one.rstrip(b"=") for one in coded)}


def found_in(text: bytes, secrets: Mapping[str, bytes], place: str) -> Iterator[Find]:
    """Which secrets stand in these bytes, in whatever form."""
    for name, secret in secrets.items():
        if any(form in text for form in forms(secret)):
            yield name, place


class Answers:
    """Remembers whatever a client is answered: a hook of httpx."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    async def __call__(self, response: httpx.Response) -> None:
        await response.aread()
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.multi_items())
        self.seen.append((f"{response.request.method} {response.request.url.path}", head.encode() + response.content))

    def search(self, secrets: Mapping[str, bytes]) -> list[Find]:
        return [find for place, text in self.seen for find in found_in(text, secrets, f"answer to {place}")]


def search_files(folder: Path, secrets: Mapping[str, bytes]) -> list[Find]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [find for path in files for find in found_in(path.read_bytes(), secrets, f"file {path.name}")]


async def search_topics(settings: Settings, secrets: Mapping[str, bytes]) -> list[Find]:
    """Keys, values and headers of every record under the prefix."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        topics = [name for name in await admin.list_topics() if name.startswith(settings.topic_prefix)]
    finally:
        await admin.close()
    finds: list[Find] = []
    for topic in topics:
        for record in await read_topic(settings, topic):
            headers = (part for name, value in record.headers for part in (name.encode(), value or b""))
            finds += found_in(b"\n".join([record.key or b"", record.value or b"", *headers]), secrets, f"topic {topic}")
    return finds


async def search_redis(url: str, secrets: Mapping[str, bytes]) -> list[Find]:
    """Every key and value there is, of other runs too."""
    finds: list[Find] = []
    async with redis.from_url(url) as client:
        async for key in client.scan_iter(count=1000):
            async for text in _redis_texts(client, key):
                finds += found_in(text, secrets, "redis")
    return finds


async def _redis_texts(client: Any, key: bytes) -> AsyncIterator[bytes]:
    yield key
    match await client.type(key):
        case b"string":
            yield await client.get(key) or b""
        case b"hash":
            for name, value in (await client.hgetall(key)).items():
                yield name + b"\n" + value
        case b"list":
            yield b"\n".join(await client.lrange(key, 0, -1))
        case b"set":
            yield b"\n".join(await client.smembers(key))
        case b"zset":
            yield b"\n".join(await client.zrange(key, 0, -1))
        case b"none":
            return  # gone meanwhile
        case other:
            raise AssertionError(f"a kind of value that nobody searches: {other!r}")


def search_postgres(url: str, secrets: Mapping[str, bytes]) -> list[Find]:
    """Every row of every table, as text; binary columns are hex there."""
    finds: list[Find] = []
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select tablename from pg_tables where schemaname = 'public'")
            tables = [name for (name,) in cursor.fetchall()]
            for table in tables:
                cursor.execute(sql.SQL("select t::text from {} t").format(sql.Identifier(table)))
                for (row,) in cursor.fetchall():
                    finds += found_in(row.encode(), secrets, f"table {table}")
    finally:
        connection.close()
    return finds
