"""Receivers that mean us no good or say too much, through all processes: what the log tells, and what it does not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shared.kafka import ensure_topics
from tests.canaries import found_in, search_files, search_postgres, search_topics
from tests.conftest import FreshSettings
from tests.hostile import HOSTILE
from tests.receiver import Answer, Arrival, Receiver
from tests.system import STREAM, System, read_topic
from tests.wire_server import WireServer

#: Fewer slots than there are requests to hostile receivers: one that is not freed is missed.
SLOTS = 4
EVENTS_EACH = 2
#: What the delivery stream may have grown by. Unbounded, the endless ones alone would bring gigabytes.
GROWN_KIB = 64 * 1024


@pytest.fixture(scope="module")
async def narrow(fresh_settings: FreshSettings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A system with few slots and a short deadline."""
    folder = tmp_path_factory.mktemp("narrow")
    settings = fresh_settings(data_dir=folder, max_in_flight=SLOTS, webhook_delivery_timeout_seconds=0.5)
    await ensure_topics(settings)
    async with System(settings) as running:
        yield running


async def test_each_is_cut_logged_and_gives_its_slot_back(narrow: System) -> None:
    async with Receiver() as healthy, AsyncExitStack() as servers:
        warm = await narrow.subscribe(healthy.url + "/warm")
        await narrow.status_when(await narrow.ingest(warm["id"], b"{}"), "succeeded")
        before_kib = resident_kib(narrow)
        sent: dict[str, list[str]] = {}
        for name, hostile in HOSTILE.items():
            server = await servers.enter_async_context(WireServer(hostile.behave))
            subscription = await narrow.subscribe(server.url, retry_delays=[])
            body = json.dumps({"for": name, "filler": "x" * 200_000}).encode()
            sent[name] = [await narrow.ingest(subscription["id"], body) for _ in range(EVENTS_EACH)]
        for name, webhook_ids in sent.items():
            for webhook_id in webhook_ids:
                found = await narrow.status_when(webhook_id, "failed", within_s=60)
                attempt = found["latest_attempt"]
                assert (attempt["error_class"], attempt["http_status_code"]) == (
                    HOSTILE[name].error_class,
                    HOSTILE[name].status,
                ), name
                assert attempt["duration_ms"] > 0
                assert attempt["address"] == "127.0.0.1"
                assert attempt["sent_bytes"] > 200_000
                assert attempt["received_bytes"] < 2_000_000
        after = await narrow.subscribe(healthy.url + "/after")
        await narrow.status_when(await narrow.ingest(after["id"], b"{}"), "succeeded")
        assert resident_kib(narrow) - before_kib < GROWN_KIB


@pytest.mark.parametrize("status", [200, 400])
async def test_what_a_receiver_repeats_of_our_secrets_is_seen_nowhere(narrow: System, status: int) -> None:
    """In no answer of the API, no topic, no table and no log; what is no secret is there to debug with."""

    def repeats(arrival: Arrival) -> Answer:
        told = {name: arrival.headers[name] for name in SECRET_HEADERS if name in arrival.headers}
        return Answer(status, body=json.dumps({"seen": arrival.headers["webhook-id"], **told}).encode())

    async with Receiver() as receiver:
        receiver.script("/repeats", repeats)
        subscription = await narrow.subscribe(
            receiver.url + "/repeats",
            secret="canary/incoming+0123456789",
            headers={"Authorization": "Bearer canary/outgoing+0123456789"},
            signing_versions=["v1", "v1a"],
            retry_delays=[],
        )
        webhook_id = await narrow.ingest(subscription["id"], b"{}", "canary/incoming+0123456789")
        found = await narrow.status_when(webhook_id, "succeeded" if status == 200 else "failed")
        (arrival,) = await receiver.wait_for(1, "/repeats")

    secrets = {
        "header": b"canary/outgoing+0123456789",
        "incoming": b"canary/incoming+0123456789",
        "signing": base64.b64decode(subscription["signing_secret"].removeprefix("whsec_")),
        "hub": bytes.fromhex(arrival.headers["x-hub-signature-256"].partition("=")[2]),
    }
    for signature in arrival.headers["webhook-signature"].split(" "):
        version, _, coded = signature.partition(",")
        secrets[version] = base64.b64decode(coded)
    assert secrets.keys() >= {"v1", "v1a"}

    attempt = found["latest_attempt"]
    assert attempt["response_body"].startswith(f'{{"seen": "{webhook_id}", ')
    assert attempt["response_body"].count("***") >= 3
    assert attempt["error_details"] == (None if status == 200 else attempt["response_body"])
    assert set(attempt["timings_ms"]) == {"connect", "first_byte"}
    logs = (await narrow.api.get(f"/subscriptions/{subscription['id']}/logs")).text
    finds = [*found_in(json.dumps(found).encode() + logs.encode(), secrets, "answer")]
    finds += await search_topics(narrow.settings, secrets)
    finds += search_postgres(narrow.settings.database_url.get_secret_value(), secrets)
    finds += search_files(narrow.settings.data_dir, secrets)
    assert finds == []
    records = await read_topic(narrow.settings, narrow.settings.topics.attempts)
    assert any(webhook_id.encode() in (record.value or b"") and b"***" in (record.value or b"") for record in records)


SECRET_HEADERS = ("authorization", "webhook-signature", "x-hub-signature-256")


def resident_kib(system: System) -> int:
    """Memory of the delivery stream."""
    status = Path(f"/proc/{system.pid(STREAM)}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])
