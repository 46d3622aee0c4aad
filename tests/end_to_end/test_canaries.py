"""Secrets stay where they belong: planted everywhere in a full run with failures, then searched for everywhere.

Encrypted in Postgres and Redis, in the memory of our processes, and in the requests that they are for: nowhere else.
"""

from __future__ import annotations

import base64
import secrets as randomness
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg2
import pytest
import redis.asyncio as redis
from pydantic import SecretStr

from shared.kafka import Producer, ensure_topics
from shared.records import Record
from shared.settings import Settings
from tests.canaries import Answers, Find, search_files, search_postgres, search_redis, search_topics
from tests.conftest import FreshSettings
from tests.receiver import Answer, Arrival, Receiver
from tests.system import API, SCHEDULER, SINK, STREAM, System, signed


@dataclass
class Run:
    """A finished run: what was planted, and what was answered."""

    settings: Settings
    #: By name. Those that some answer has to show are in ``shown`` as well.
    secrets: dict[str, bytes] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    answers: Answers = field(default_factory=Answers)

    def plant(self, name: str) -> str:
        """A secret nobody has seen before."""
        text = f"canary-{randomness.token_hex(12)}"
        self.secrets[name] = text.encode()
        return text

    def was_shown(self, name: str, text: str) -> None:
        self.secrets[name] = text.encode()
        self.shown.add(name)

    async def search(self, wanted: dict[str, bytes]) -> list[Find]:
        """Everywhere but in the answers."""
        finds = search_files(self.settings.data_dir, wanted) + await search_topics(self.settings, wanted)
        finds += search_postgres(self.settings.database_url.get_secret_value(), wanted)
        if url := self.settings.redis_url.get_secret_value():
            finds += await search_redis(url, wanted)
        return finds


@pytest.fixture(scope="module")
async def run(fresh_settings: FreshSettings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """All processes with every secret set, talking as much as they can, and everything that can go wrong."""
    planted = Run(fresh_settings())
    update: dict[str, Any] = {
        "data_dir": tmp_path_factory.mktemp("canaries"),
        "admin_api_key": SecretStr(planted.plant("ADMIN_API_KEY")),
        "kafka_sasl_password": SecretStr(planted.plant("KAFKA_SASL_PASSWORD")),
        "log_level": "DEBUG",
        "max_payload_bytes": 4096,
    }
    with_password = _with_password(planted.settings.database_url.get_secret_value(), planted.plant("database password"))
    if _connects(with_password):  # a server that asks for none takes any
        update["database_url"] = SecretStr(with_password)
    planted.settings = planted.settings.model_copy(update=update)
    planted.secrets["ENCRYPTION_KEY"] = planted.settings.encryption_key.get_secret_value().encode()
    planted.secrets["ENCRYPTION_KEY decoded"] = base64.urlsafe_b64decode(planted.secrets["ENCRYPTION_KEY"])
    await ensure_topics(planted.settings)
    async with Receiver() as receiver, System(planted.settings) as system:
        system.api.event_hooks["response"].append(planted.answers)
        system.api.headers["Authorization"] = f"Bearer {update['admin_api_key'].get_secret_value()}"
        await _live(planted, system, receiver)
        await _without_postgres(planted)
        yield planted


async def _live(run: Run, system: System, receiver: Receiver) -> None:
    """What a subscription can go through."""
    receiver.script("/echo", _echo)
    failing = await _subscribe(run, system, "failing", receiver.url + "/echo")
    healthy = await _subscribe(run, system, "healthy", receiver.url + "/fine")
    gone = await _subscribe(run, system, "gone", "http://127.0.0.1:9/")
    await _refusals(run, system, receiver, healthy["id"])
    events = [await _send(run, system, one, name) for one, name in ((failing, "failing"), (healthy, "healthy"))]
    await _send(run, system, gone, "gone")
    await _change(run, system, receiver, healthy["id"])
    await _key(run, system)
    await system.api.post("/events", json={"event_type": "order.paid", "payload": {"n": 1}})
    await _unreadable(run.settings)
    await system.status_when(events[0], "failed")
    await system.status_when(events[1], "succeeded")
    await _look(system, failing["id"], events[0])
    system.kill(STREAM)
    await system.ended(STREAM)
    system.start(STREAM)
    await system.ready(STREAM)
    await system.api.post(f"/subscriptions/{gone['id']}/pause")
    assert (await system.api.delete(f"/subscriptions/{gone['id']}")).status_code == 204
    last = await _send(run, system, failing, "failing")
    await system.status_when(last, "failed")


async def _subscribe(run: Run, system: System, name: str, url: str) -> dict[str, Any]:
    created = await system.subscribe(
        url,
        secret=run.plant(f"{name}: secret"),
        headers={"Authorization": f"Bearer {run.plant(f'{name}: header')}"},
        description="plain to see",
    )
    _signing_key(run, f"{name}: signing secret", created["signing_secret"])
    return created


def _signing_key(run: Run, name: str, signing_secret: str) -> None:
    run.was_shown(name, signing_secret)
    run.was_shown(f"{name} decoded", "")
    run.secrets[f"{name} decoded"] = base64.b64decode(signing_secret.removeprefix("whsec_"))


async def _send(run: Run, system: System, subscription: dict[str, Any], name: str) -> str:
    secret = run.secrets[f"{name}: secret"].decode()
    return await system.ingest(subscription["id"], b'{"type": "order.paid"}', secret)


async def _refusals(run: Run, system: System, receiver: Receiver, subscription_id: str) -> None:
    """Requests that are refused with secrets in them."""
    secret = run.plant("refused: secret")
    bodies: list[Any] = [
        {"target_url": "ftp://example.com", "secret": secret},
        {"target_url": receiver.url, "secret": [secret]},
        {"target_url": f"http://user:{secret}@example.com/"},
        {"target_url": receiver.url, "headers": {"X-Token": [secret]}},
        {"target_url": receiver.url, "headers": {"X-Token": f"{secret}\r\n"}},
        {"target_url": receiver.url, "secret": secret, "unknown": secret},
    ]
    for body in bodies:
        assert (await system.api.post("/subscriptions/", json=body)).status_code == 422
    cut = await system.api.post(
        "/subscriptions/", content=f'{{"secret": "{secret}', headers={"Content-Type": "application/json"}
    )
    assert cut.status_code == 400
    wrong_key = await system.api.get("/subscriptions/", headers={"Authorization": f"Bearer {secret}"})
    assert wrong_key.status_code == 401
    url = f"/ingest/{subscription_id}"
    assert (await system.api.post(url, content=b"{}", headers=signed(b"{}", secret))).status_code == 401
    assert (await system.api.post(url, content=b"x" * 5000)).status_code == 413
    assert (await system.api.post("/urldata/", json={"url": "nonsense", "secret": secret})).status_code == 422


async def _change(run: Run, system: System, receiver: Receiver, subscription_id: str) -> None:
    url, old = f"/subscriptions/{subscription_id}", run.secrets["healthy: secret"].decode()
    rotated = await system.api.post(f"{url}/rotate-secret", json={"secret": run.plant("rotated: secret")})
    assert rotated.status_code == 200, rotated.text
    _signing_key(run, "rotated: signing secret", rotated.json()["signing_secret"])
    await system.ingest(subscription_id, b"{}", old)
    replaced = {"target_url": receiver.url + "/fine", "secret": run.plant("replaced: secret")}
    assert (await system.api.put(url, json=replaced)).status_code == 200
    patched = {"headers": {"X-Api-Key": run.plant("patched: header")}, "secret": run.plant("patched: secret")}
    assert (await system.api.patch(url, json=patched)).status_code == 200
    legacy = {"id": subscription_id, "secret": run.plant("legacy: secret")}
    assert (await system.api.put("/subscriptions/updatesubscription", json=legacy)).status_code == 200
    assert (await system.api.post(f"{url}/test")).status_code == 202


async def _key(run: Run, system: System) -> None:
    made = await system.api.post("/keys/", json={"role": "read", "name": "plain to see"})
    assert made.status_code == 201, made.text
    run.was_shown("API key", made.json()["key"])
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await system.api.post("/keys/", json={"role": "admin"}, headers=key)).status_code in (401, 403)
    await system.api.get("/keys/")


async def _unreadable(settings: Settings) -> None:
    """A record that nobody can read: it goes to the dead letters as it is."""
    producer = Producer(settings)
    await producer.start()
    await producer.send(Record(settings.topics.deliveries, b"k", b"unreadable", [("subscription-id", b"\xff")]), 5)
    await producer.stop()


async def _look(system: System, subscription_id: str, webhook_id: str) -> None:
    for path in (
        "/subscriptions/",
        f"/subscriptions/{subscription_id}",
        f"/subscriptions/{subscription_id}/logs",
        f"/subscriptions/{subscription_id}/deliveries",
        "/subscriptions/getsubscriptions",
        f"/urldata/{subscription_id}",
        f"/logs/{subscription_id}",
        "/logs/",
        "/logs/deliverylogs",
        "/status/logs/all",
        f"/status/delivery/{webhook_id}",
        f"/webhooks/{webhook_id}/payload",
        "/health",
        "/ready",
        "/openapi.json",
        "/no/such",
    ):
        answer = await system.api.get(path)
        assert answer.status_code == (404 if path == "/no/such" else 200), f"{path}: {answer.text}"


async def _without_postgres(run: Run) -> None:
    """An API whose Postgres and Redis are not there says so, with their passwords in its settings."""
    password = run.plant("password of a Postgres that is not there")
    gone = {
        "database_url": SecretStr(f"postgresql://hooklog:{password}@127.0.0.1:9/none"),
        "redis_url": SecretStr(f"redis://:{run.plant('password of a Redis that is not there')}@127.0.0.1:9/0"),
    }
    async with System(run.settings.model_copy(update=gone), only=(API,)) as system:
        system.api.event_hooks["response"].append(run.answers)
        system.api.headers["Authorization"] = f"Bearer {run.settings.admin_api_key.get_secret_value()}"
        answers = [await system.api.get(path) for path in ("/subscriptions/", "/logs/", "/health", "/ready")]
        assert [answer.status_code for answer in answers] == [503, 503, 200, 200]


def _echo(arrival: Arrival) -> Answer:
    """A receiver that fails and tells everybody what it was sent."""
    told = "\n".join(f"{name}: {value}" for name, value in arrival.headers.items())
    return Answer(500, body=told.encode())


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or 'postgres'}:{password}@{host}").geturl()


def _connects(url: str) -> bool:
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return False
    return True


async def test_no_log_topic_table_or_cache_holds_a_secret(run: Run) -> None:
    assert await run.search(run.secrets) == []
    logs = {path.stem: path.stat().st_size for path in (run.settings.data_dir / "system-logs").iterdir()}
    assert logs.keys() == {API, STREAM, SCHEDULER, SINK}
    assert min(logs.values()) > 0
    print(logs, len(run.answers.seen), sorted(run.secrets))


async def test_answers_show_no_secret_but_the_new_ones_once(run: Run) -> None:
    assert len(run.answers.seen) > 40
    hidden = {name: secret for name, secret in run.secrets.items() if name not in run.shown}
    assert run.answers.search(hidden) == []
    for name in run.shown:
        places = {place for _, place in run.answers.search({name: run.secrets[name]})}
        assert len(places) <= 1, (name, places)
        assert all(place.split()[2] == "POST" for place in places), (name, places)


async def test_search_finds_what_is_there(run: Run) -> None:
    """Proof of the search: a word that is planted in each of the places, in one of the forms each."""
    word = f"proof-{randomness.token_hex(8)}"
    coded = base64.b64encode(word.encode()).decode().rstrip("=")
    (run.settings.data_dir / "system-logs" / "proof.log").write_text(f"a line with {word} in it\n")
    producer = Producer(run.settings)
    await producer.start()
    for header, value, key in ((coded, "", ""), ("", f"v {word}", ""), ("", "", word)):
        record = Record(run.settings.topics.dead_letter, key.encode() or None, value.encode(), [("h", header.encode())])
        await producer.send(record, 5)
    await producer.stop()
    connection = psycopg2.connect(run.settings.database_url.get_secret_value())
    with connection, connection.cursor() as cursor:
        cursor.execute("update subscriptions set description = %s", (f"hex {word.encode().hex()}",))
        assert cursor.rowcount
    connection.close()
    expected = {"file proof.log": 1, f"topic {run.settings.topics.dead_letter}": 3, "table subscriptions": None}
    if url := run.settings.redis_url.get_secret_value():
        async with redis.from_url(url) as client:
            await client.set(f"{run.settings.topic_prefix}proof", word, ex=60)
        expected["redis"] = 1
    finds = [place for _, place in await run.search({"proof": word.encode()})]
    assert set(finds) == set(expected)
    assert all(count is None or finds.count(place) == count for place, count in expected.items())
    answers = Answers()
    await answers(httpx.Response(200, text=word, request=httpx.Request("GET", "http://localhost/x")))
    assert answers.search({"proof": word.encode()}) == [("proof", "answer to GET /x")]
