"""A receiver's name that turns inside, through all four processes: blocked, shown, dead-lettered, never called.

127.0.0.2 plays the public address, as in the contract tests; all else on loopback is inside.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from shared.kafka import ensure_topics
from tests.conftest import FreshSettings
from tests.end_to_end.test_pipeline import headers_of
from tests.name_server import NameServer, Says, says
from tests.receiver import Answer, Receiver
from tests.system import System, read_topic

PUBLIC = "127.0.0.2"
INSIDE = "127.0.0.1"


@pytest.fixture(scope="module")
async def names() -> AsyncIterator[NameServer]:
    async with NameServer() as listening:
        yield listening


@pytest.fixture(scope="module")
async def guarded(
    fresh_settings: FreshSettings, names: NameServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    settings = fresh_settings(
        data_dir=tmp_path_factory.mktemp("guarded"),
        dns_servers=names.address,
        allowed_target_networks=f"{PUBLIC}/32",
        retry_delays="6s,6s",  # longer than the shortest memory of an answer
    )
    await ensure_topics(settings)
    async with System(settings) as running:
        yield running


@pytest.fixture
async def public() -> AsyncIterator[Receiver]:
    async with Receiver(PUBLIC) as listening:
        yield listening


@pytest.fixture
async def inside(public: Receiver) -> AsyncIterator[Receiver]:
    """The same port on the other address."""
    async with Receiver(INSIDE, public.port) as listening:
        yield listening


async def test_a_name_that_turns_inside_between_two_attempts_is_blocked_and_dead_lettered(
    guarded: System, names: NameServer, public: Receiver, inside: Receiver
) -> None:
    names.script("turning.example", says(PUBLIC, ttl_s=0), says(INSIDE, ttl_s=0))
    public.script("/hook", Answer(503, headers=(("connection", "close"),)))
    subscription = await guarded.subscribe(f"http://turning.example:{public.port}/hook")
    webhook_id = await guarded.ingest(subscription["id"], b'{"turning": 1}')

    found = await guarded.status_when(webhook_id, "failed", within_s=60)

    first, second = sorted(found["attempts"], key=lambda attempt: attempt["attempt_number"])
    assert (first["outcome"], first["http_status_code"]) == ("failed_attempt", 503)
    assert (second["outcome"], second["http_status_code"]) == ("permanently_failed", None)
    assert (second["error_class"], second["reason"], found["reason"]) == ("blocked", "blocked", "blocked")
    assert INSIDE not in str(second)
    (dead,) = [
        record
        for record in await read_topic(guarded.settings, guarded.settings.topics.dead_letter)
        if headers_of(record)["webhook-id"] == webhook_id
    ]
    assert dead.value == b'{"turning": 1}'
    assert headers_of(dead)["reason"] == "blocked"
    assert (len(public.arrivals), inside.connections_seen) == (1, 0)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("inside", says(INSIDE)),
        ("mixed", says(PUBLIC, INSIDE)),
        ("metadata", says("169.254.169.254")),
        ("mapped", says("::ffff:127.0.0.1")),
        ("nat64", says("64:ff9b::7f00:1")),
        ("sixtofour", says("2002:7f00:1::")),
        ("alias", Says((INSIDE,), (("alias.example", "localhost"),))),
    ],
)
async def test_a_name_that_leads_inside_is_never_called(
    guarded: System, names: NameServer, public: Receiver, inside: Receiver, name: str, answer: Says
) -> None:
    names.script(f"{name}.example", answer)
    subscription = await guarded.subscribe(f"http://{name}.example:{public.port}/{name}")
    webhook_id = await guarded.ingest(subscription["id"], b"{}")

    found = await guarded.status_when(webhook_id, "failed")

    (attempt,) = found["attempts"]
    assert attempt["outcome"] == "permanently_failed"
    assert (attempt["error_class"], attempt["reason"]) == ("blocked", "blocked")
    records = await read_topic(guarded.settings, guarded.settings.topics.attempts)
    (logged,) = [
        record for record in (json.loads(record.value) for record in records) if record.get("webhook_id") == webhook_id
    ]
    assert (logged["outcome"], logged["error_class"], logged["reason"]) == ("permanently_failed", "blocked", "blocked")
    assert logged.get("http_status_code") is None
    assert (public.connections_seen, inside.connections_seen) == (0, 0)


async def test_a_name_that_leads_to_a_public_address_is_delivered_there(
    guarded: System, names: NameServer, public: Receiver, inside: Receiver
) -> None:
    names.script("good.example", Says((PUBLIC,), (("good.example", "pool.example"),)))
    subscription = await guarded.subscribe(f"http://good.example:{public.port}/good")
    webhook_id = await guarded.ingest(subscription["id"], b'{"good": 1}')
    await guarded.status_when(webhook_id, "succeeded")
    (arrival,) = public.arrivals
    assert arrival.headers["host"] == f"good.example:{public.port}"
    assert inside.connections_seen == 0


async def test_an_address_inside_is_refused_when_the_subscription_is_made(guarded: System) -> None:
    for host in (INSIDE, "[::1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "１２７。０。０。１", "10.0.0.1"):
        answer = await guarded.api.post("/subscriptions/", json={"target_url": f"http://{host}:9999/"})
        assert answer.status_code == 422, host
        assert answer.json()["code"] == "target_url_refused"
