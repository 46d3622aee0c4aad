"""The exact bytes of an event, read back from the log."""

from __future__ import annotations

import os
import uuid

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from ingest_api.app import create_app
from shared.attempt_rows import row_of_attempt
from shared.attempt_writer import AttemptWriter
from shared.kafka import client_options
from shared.record_ids import new_webhook_id
from shared.records import Delivery, Source
from shared.settings import Settings
from tests.api.conftest import Api, running_api
from tests.api.test_ingest import problem
from tests.api.test_status import attempt, sink  # noqa: F401 - the fixture
from tests.api.test_without_stores import closed_port  # noqa: F401 - the fixture

_BODIES = [
    (b"", "text/plain"),
    (b'{"a":  1.50, "\xc3\xa9": "\\u00e9"}\n', "application/json; charset=utf-8"),
    (b"<script>alert(1)</script>", "text/html"),
    (bytes(range(256)) * 255, "application/octet-stream"),
    (os.urandom(64 * 1024), "image/png"),
]


@pytest.mark.parametrize(("body", "content_type"), _BODIES)
async def test_the_bytes_come_back_as_they_were_and_no_browser_renders_them(
    api: Api,
    sink: None,  # noqa: F811
    body: bytes,
    content_type: str,
) -> None:
    created = await api.subscribe()
    sent = await api.client.post(f"/ingest/{created['id']}", content=body, headers={"Content-Type": content_type})
    for path in (f"/webhooks/{sent.json()['webhook_id']}/payload", f"/webhooks/{sent.json()['webhook_id']}/payload/"):
        answer = await api.client.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.content == body
        assert answer.headers["content-type"] == content_type
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == "attachment"
        assert "sandbox" in answer.headers["content-security-policy"]


async def test_without_a_content_type_it_is_only_bytes(api: Api, sink: None) -> None:  # noqa: F811
    created = await api.subscribe()
    sent = await api.client.post(f"/ingest/{created['id']}", content=b"raw")
    answer = await api.client.get(f"/webhooks/{sent.json()['webhook_id']}/payload")
    assert (answer.content, answer.headers["content-type"]) == (b"raw", "application/octet-stream")


async def test_an_event_for_many_is_read_back_as_well(api: Api, sink: None) -> None:  # noqa: F811
    sent = await api.client.post(
        "/events", content=b"<a/>", headers={"X-Event-Type": "a.b", "Content-Type": "text/xml"}
    )
    answer = await api.client.get(f"/webhooks/{sent.json()['event_id']}/payload")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"<a/>", "text/xml")


@pytest.mark.parametrize("text", [str(uuid.uuid4()), "x", "1", "%00", "%ED%A0%80"])
async def test_payloads_of_nobody_are_404(api: Api, sink: None, text: str) -> None:  # noqa: F811
    problem(await api.client.get(f"/webhooks/{text}/payload"), 404, "not_found")


async def logged_at(api: Api, *sources: str | None) -> str:
    """An event whose attempts say that they were read from these places."""
    created = await api.subscribe()
    webhook_id = new_webhook_id()
    rows = [
        row_of_attempt(attempt(created, webhook_id, number, source=source), Source("attempts", 0, number))
        for number, source in enumerate(sources, start=1)
    ]
    AttemptWriter(api.parts.database).write_batch(rows, [])
    return webhook_id


async def test_what_the_janitor_deleted_is_410(api: Api) -> None:
    topic = api.settings.topics.deliveries
    webhook_id = new_webhook_id()
    delivery = Delivery(webhook_id, "nobody", b"short-lived", accepted_ms=0)
    [place] = await api.parts.producer.send_all([delivery.to_record(topic)], 5)
    admin = AIOKafkaAdminClient(**client_options(api.settings))
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, place.partition): RecordsToDelete(place.offset + 1)})
    finally:
        await admin.close()
    problem(await api.client.get(f"/webhooks/{await logged_at(api, str(place))}/payload"), 410, "payload_gone")


async def test_a_place_that_holds_another_event_or_is_none_of_ours_is_410(api: Api) -> None:
    topic = api.settings.topics.deliveries
    [place] = await api.parts.producer.send_all(
        [Delivery(new_webhook_id(), "nobody", b"another's", accepted_ms=0).to_record(topic)], 5
    )
    foreign = str(place).replace(topic, api.settings.topics.attempts)
    beyond = f"{topic}:{place.partition}:999999999"
    for source in (str(place), foreign, beyond, "nonsense", f"{topic}:x:y", f"{topic}:-1:0", None):
        webhook_id = await logged_at(api, source)
        problem(await api.client.get(f"/webhooks/{webhook_id}/payload"), 410, "payload_gone")


async def test_an_earlier_place_is_read_when_the_last_one_is_gone(api: Api) -> None:
    created, topic = await api.subscribe(), api.settings.topics.deliveries
    webhook_id = new_webhook_id()
    delivery = Delivery(webhook_id, created["id"], b"still here", accepted_ms=0)
    [place] = await api.parts.producer.send_all([delivery.to_record(topic)], 5)
    places = [str(place), f"{topic}:{place.partition}:999999999"]
    rows = [
        row_of_attempt(attempt(created, webhook_id, number, source=source), Source("attempts", 0, number))
        for number, source in enumerate(places, start=1)
    ]
    AttemptWriter(api.parts.database).write_batch(rows, [])
    assert (await api.client.get(f"/webhooks/{webhook_id}/payload")).content == b"still here"


async def test_without_kafka_it_is_503_within_the_bound(
    api: Api,
    api_settings: Settings,
    closed_port: int,  # noqa: F811
) -> None:
    webhook_id = await logged_at(api, f"{api.settings.topics.deliveries}:0:0")
    settings = api_settings.model_copy(update={"kafka_bootstrap_servers": f"127.0.0.1:{closed_port}"})
    async with running_api(settings) as down:
        answer = await down.client.get(f"/webhooks/{webhook_id}/payload")
        problem(answer, 503, "kafka_unavailable")
        assert answer.headers["retry-after"]
    assert "/webhooks/{webhook_id}/payload" in create_app(settings, api.parts).openapi()["paths"]
