"""What the processes need before they start: topics, tables, the right ENCRYPTION_KEY, and secrets under its first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from deploy.migrate import migrate
from shared.database import Database
from shared.encryption import Cipher, verify_key
from shared.kafka import ensure_topics
from shared.resealing import reseal
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was missing: the topics made, and how many rows had secrets under an older key."""

    topics: list[str]
    resealed_rows: int
    #: The revision of a schema that a newer version made, and that was left as it is.
    newer_schema: str | None = None


async def prepare_stores(settings: Settings) -> Prepared:
    """Create what is missing, check the key against the database, seal under its first what was not.

    Raises HooklogErrors.
    """
    url = settings.database_url.get_secret_value()
    key = settings.encryption_key.get_secret_value()
    cipher = Cipher(key) if key else None  # who only migrates needs none
    newer_schema, created = await asyncio.gather(asyncio.to_thread(migrate, url), ensure_topics(settings))
    resealed_rows = await asyncio.to_thread(_prepare_secrets, url, cipher) if cipher else 0
    return Prepared(created, resealed_rows, newer_schema)


def _prepare_secrets(url: str, cipher: Cipher) -> int:
    database = Database(url)
    try:
        verify_key(database, cipher)
        return reseal(database, cipher)
    finally:
        database.close()
