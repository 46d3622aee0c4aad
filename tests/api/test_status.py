"""Status and logs over the real attempt log, written by the real sink."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uuid_utils
from pydantic import SecretStr

from delivery_stream.attempt_sink import AttemptSink
from shared.attempt_records import Alarm, Attempt
from shared.attempt_rows import row_of_alarm
from shared.attempt_writer import AttemptWriter
from shared.kafka import ensure_topics
from tests.api.conftest import Api, running_api, until
from tests.api.test_ingest import problem
from tests.conftest import FreshSettings, delete_topics

_QUICK_S = 1.5


@asynccontextmanager
async def sink_of(api: Api) -> AsyncIterator[AttemptSink]:
    """The attempt sink, a member of its group until the end of the block."""
    stop, sink = asyncio.Event(), AttemptSink(api.settings, api.parts.producer)
    running = asyncio.create_task(sink.run(stop))
    try:
        yield sink
    finally:
        stop.set()
        await running


@pytest.fixture(scope="module")
async def sink(api: Api) -> AsyncIterator[None]:
    async with sink_of(api) as running:
        await until(lambda: not running.troubles(), within_s=30)
        yield


async def accept(api: Api, **headers: str) -> tuple[dict[str, Any], str]:
    """A new subscription and the id of an event for it."""
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id']}", content=b"{}", headers=headers)
    return created, answer.json()["webhook_id"]


def attempt(created: dict[str, Any], webhook_id: str, number: int, **more: Any) -> Attempt:
    """The attempt of this number; one starts a second after the other, as no tier is shorter."""
    values: dict[str, Any] = {"outcome": "failed_attempt", "http_status_code": 503, "error_details": "HTTP 503"} | more
    return Attempt(
        kind="attempt",
        webhook_id=webhook_id,
        subscription_id=created["id"],
        run=1,
        attempt=number,
        accepted_ms=uuid.UUID(webhook_id).int >> 80,
        attempted_ms=time.time_ns() // 1_000_000 + 1000 * number,
        target_url=created["target_url"],
        duration_ms=12.5,
        **values,
    )


async def log_attempts(api: Api, *attempts: Attempt) -> None:
    await api.parts.producer.send_all([one.to_record(api.settings.topics.attempts) for one in attempts], 5)


async def status_when(api: Api, webhook_id: str, status: str) -> dict[str, Any]:
    """The answer once it says ``status``."""
    async with asyncio.timeout(10):
        while True:
            body: dict[str, Any] = (await api.client.get(f"/status/{webhook_id}")).json()
            if body["status"] == status:
                return body


async def test_an_accepted_event_has_a_status_at_once(api: Api, sink: None) -> None:
    created, webhook_id = await accept(api, **{"X-Event-Type": "order.created"})
    answer = await api.client.get(f"/status/{webhook_id}/")
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"] == webhook_id
    assert body["subscription_id"] == created["id"]
    assert body["event_type"] == "order.created"
    assert body["tenant"] == "default"
    assert body["status"] == "queued"
    assert body["latest_attempt"] is None
    assert body["attempts"] == []
    assert body["ingested_at"].endswith("Z")


async def test_attempts_are_told_in_the_contracts_form(api: Api, sink: None) -> None:
    created, webhook_id = await accept(api)
    due_ms = time.time_ns() // 1_000_000 + 1000
    await log_attempts(api, attempt(created, webhook_id, 1, next_attempt_ms=due_ms))
    body = await status_when(api, webhook_id, "retrying")
    [first] = body["attempts"]
    assert first == body["latest_attempt"]
    assert first["attempt_number"] == 1
    assert first["outcome"] == "failed_attempt"
    assert first["http_status_code"] == 503
    assert first["error_details"] == "HTTP 503"
    assert first["duration_ms"] == 12.5
    assert first["attempted_at"].endswith("Z")
    assert first["next_attempt_at"].endswith("Z")
    done = attempt(created, webhook_id, 2, outcome="succeeded", http_status_code=200, error_details=None)
    await log_attempts(api, done)
    body = await status_when(api, webhook_id, "succeeded")
    assert [one["attempt_number"] for one in body["attempts"]] == [1, 2]
    assert body["latest_attempt"]["outcome"] == "succeeded"


async def test_logs_are_the_newest_first_and_bounded(api: Api, sink: None) -> None:
    created, webhook_id = await accept(api)
    url = f"/subscriptions/{created['id']}/logs"
    assert (await api.client.get(url)).json() == []
    for number in range(1, 4):
        await log_attempts(api, attempt(created, webhook_id, number))
    async with asyncio.timeout(10):
        while len(rows := (await api.client.get(f"{url}/")).json()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert [row["attempt_number"] for row in rows] == [3, 2, 1]
    assert rows[0]["webhook_id"] == webhook_id
    assert rows[0]["subscription_id"] == created["id"]
    assert rows[0]["target_url"] == created["target_url"]
    assert len({row["id"] for row in rows}) == 3
    assert [row["attempt_number"] for row in (await api.client.get(url, params={"limit": 1})).json()] == [3]
    for limit in ("0", "101", "x"):
        problem(await api.client.get(url, params={"limit": limit}), 422, "invalid_request")


def ids_of_nobody() -> list[str]:
    ahead = uuid.UUID(int=(uuid.uuid4().int & ~(0xF << 76)) | (0x7 << 76) | (0xFFFF << 112))
    old = "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2"
    return [
        str(uuid.uuid4()),
        old,
        str(ahead),
        "x",
        "1",
        "%00",
        "%ff",
        "%ED%A0%80",
        "a%0Ab",
        "9" * 3000,
        "%F0%9F%92%A9",
    ]


@pytest.mark.parametrize("text", ids_of_nobody())
async def test_unknown_and_malformed_ids_are_404_quickly(api: Api, sink: None, text: str) -> None:
    started_s = time.monotonic()
    problem(await api.client.get(f"/status/{text}"), 404, "not_found")
    assert time.monotonic() - started_s < _QUICK_S


async def test_a_fresh_id_of_nobody_waits_for_the_sink_and_is_queued_as_far_as_known(api: Api, sink: None) -> None:
    started_s = time.monotonic()
    answer = await api.client.get(f"/status/{uuid_utils.uuid7()}")
    assert 1.5 < time.monotonic() - started_s < 4
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "queued"
    assert body["as_of"] < body["ingested_at"]
    assert body["subscription_id"] is None


async def test_without_postgres_recent_events_are_queued_and_others_503(api: Api) -> None:
    """Postgres goes away behind a proxy, after the event was accepted."""
    async with Proxy(api.settings.database_url.get_secret_value()) as proxy:
        settings = api.settings.model_copy(update={"database_url": SecretStr(proxy.url), "redis_url": SecretStr("")})
        async with running_api(settings) as running:
            created, webhook_id = await accept(running, **{"X-Event-Type": "order.created"})
            await proxy.cut()
            body = (await running.client.get(f"/status/{webhook_id}")).json()
            assert body["status"] == "queued"
            assert body["subscription_id"] == created["id"]
            assert body["event_type"] == "order.created"
            assert body["as_of"] == body["ingested_at"]
            answer = await running.client.get(f"/status/{uuid_utils.uuid7()}")
            problem(answer, 503, "store_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            warm = await running.client.post(f"/ingest/{created['id']}", content=b"{}")
            assert warm.status_code == 202  # what is in memory goes on
            await until(lambda: running.parts.watch.report()["status"] == "degraded", within_s=15)


async def test_an_open_alarm_about_skipped_records_fails_readiness(fresh_settings: FreshSettings) -> None:
    settings = fresh_settings()
    await ensure_topics(settings)
    async with running_api(settings) as running:
        await until(lambda: running.parts.watch.report()["status"] == "ok")
        assert (await running.client.get("/ready")).status_code == 200
        alarm = Alarm("records_skipped", "group", "topic:0", 5, 9, time.time_ns() // 1_000_000)
        writer = AttemptWriter(running.parts.database)
        await asyncio.to_thread(writer.write_batch, [row_of_alarm(alarm)], [])
        await until(lambda: running.parts.watch.report()["status"] == "down")
        ready = await running.client.get("/ready")
        assert ready.status_code == 503
        assert "records_skipped" in ready.json()["troubles"]["records"]
        assert ready.json()["checks"]["kafka"] == "ok"
        assert (await running.client.get("/health")).status_code == 200
    await delete_topics(settings)


class Proxy:
    """Passes bytes to Postgres and back, until it is cut."""

    def __init__(self, database_url: str) -> None:
        self._parts = urlsplit(database_url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    @property
    def url(self) -> str:
        user, _, _ = self._parts.netloc.rpartition("@")
        port = self._server.sockets[0].getsockname()[1] if self._server.sockets else 0
        return self._parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()

    async def cut(self) -> None:
        """Every connection ends; new ones are refused."""
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            self._tasks.add(asyncio.create_task(_copy(source, sink)))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass  # the other side was cut
    finally:
        sink.close()
