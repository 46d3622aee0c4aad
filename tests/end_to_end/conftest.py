"""One running system for all end-to-end tests; each uses subscriptions and paths of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.kafka import ensure_topics
from tests.conftest import FreshSettings
from tests.receiver import Receiver
from tests.system import System


@pytest.fixture(scope="session")
async def system(fresh_settings: FreshSettings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    settings = fresh_settings(data_dir=tmp_path_factory.mktemp("system"))
    await ensure_topics(settings)
    async with System(settings) as running:
        yield running


@pytest.fixture(scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as listening:
        yield listening
