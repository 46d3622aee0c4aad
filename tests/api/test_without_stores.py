"""Kafka or Postgres out of reach: bounded waits, 503 with Retry-After, and no exit."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from shared.records import Record
from shared.settings import Settings
from tests.api.conftest import Api, running_api, until
from tests.api.test_ingest import problem


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Bound and not listening: whoever connects is refused, and nobody else can take it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_no_broker_is_503_within_the_bound_and_not_ready(
    api: Api, api_settings: Settings, closed_port: int
) -> None:
    created = await api.subscribe()
    settings = api_settings.model_copy(
        update={"kafka_bootstrap_servers": f"127.0.0.1:{closed_port}", "ack_timeout_seconds": 0.5}
    )
    async with running_api(settings) as down:
        started_s = time.monotonic()
        answer = await down.client.post(f"/ingest/{created['id']}", content=b"x")
        took_s = time.monotonic() - started_s
        problem(answer, 503, "not_confirmed")
        assert int(answer.headers["retry-after"]) >= 1
        assert 0.4 < took_s < 2
        await until(lambda: down.parts.watch.report()["checks"]["postgres"] == "ok")
        ready = await down.client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "down"
        assert ready.json()["checks"] == {"kafka": "down", "postgres": "ok", "redis": ready.json()["checks"]["redis"]}
        assert (await down.client.get("/health")).status_code == 200
        assert (await down.client.get("/live")).status_code == 200


async def test_no_postgres_is_degraded_and_unknown_ids_are_503(api_settings: Settings, closed_port: int) -> None:
    settings = api_settings.model_copy(
        update={
            "database_url": SecretStr(f"postgresql://hooklog:canary-pw@127.0.0.1:{closed_port}/none"),
            "redis_url": SecretStr(""),
        }
    )
    async with running_api(settings) as down:
        answer = await down.client.post(f"/ingest/{uuid.uuid4()}", content=b"x")
        problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        for path in ("/subscriptions/", f"/subscriptions/{uuid.uuid4()}", f"/subscriptions/{uuid.uuid4()}/logs"):
            refused = await down.client.get(path)
            problem(refused, 503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        refused = await down.client.post("/subscriptions/", json={"target_url": "https://example.com"})
        problem(refused, 503, "store_unavailable")
        one = f"/subscriptions/{uuid.uuid4()}"
        problem(await down.client.patch(one, json={}), 503, "store_unavailable")
        for action in ("pause", "resume", "rotate-secret", "test"):
            problem(await down.client.post(f"{one}/{action}"), 503, "store_unavailable")
        await until(lambda: down.parts.watch.report()["checks"]["kafka"] == "ok")
        ready = await down.client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        assert ready.json()["checks"] == {"kafka": "ok", "postgres": "down", "redis": "off"}
        assert "canary-pw" not in ready.text


async def test_too_many_unanswered_sends_are_503_at_once(api: Api, api_settings: Settings, closed_port: int) -> None:
    created = await api.subscribe()
    settings = api_settings.model_copy(
        update={"kafka_bootstrap_servers": f"127.0.0.1:{closed_port}", "ack_timeout_seconds": 3}
    )
    async with running_api(settings) as down:
        waiting = [asyncio.create_task(down.parts.producer.send_all(_records(settings), 1.5)) for _ in range(2)]
        await until(lambda: down.parts.producer.outstanding >= 2000)
        started_s = time.monotonic()
        problem(await down.client.post(f"/ingest/{created['id']}", content=b"x"), 503, "overloaded")
        assert time.monotonic() - started_s < 0.5
        await asyncio.gather(*waiting, return_exceptions=True)


def _records(settings: Settings) -> list[Record]:
    return [Record(settings.topics.deliveries, b"k", b"v")] * 1000
