"""An admin client for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from shared.broker import client_options
from shared.settings import Settings


@asynccontextmanager
async def admin_of(settings: Settings) -> AsyncIterator[Any]:
    """Connected; closed afterwards."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
