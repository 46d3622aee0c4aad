"""The four processes on one stack, as separate programs, so that they can be killed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import httpx
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from pydantic import SecretStr

from deploy.leash import Leash
from deploy.program import Program, free_port
from shared.broker import client_options
from shared.settings import Settings

API = "api"
STREAM = "delivery-stream"
SCHEDULER = "retry-scheduler"
SINK = "attempt-sink"

_MODULES = {
    API: "ingest_api",
    STREAM: "delivery_stream",
    SCHEDULER: "retry_scheduler",
    SINK: "delivery_stream.attempt_sink",
}
#: One of each kind.
PROGRAMS = tuple(_MODULES)
_READY_WITHIN_S = 40.0
#: What a child needs of our environment; everything else comes from the settings.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "SSL_CERT_FILE")


class System:
    """``async with System(settings) as system``: all four are ready; they are gone afterwards."""

    def __init__(
        self,
        settings: Settings,
        *,
        only: tuple[str, ...] = PROGRAMS,
        settings_of: Callable[[str], Settings] | None = None,
    ) -> None:
        """``settings_of``: by a process's name, when they are not the same for all."""
        self.settings = settings
        self._settings_of = settings_of or (lambda _: settings)
        self._names = only
        self._leash = Leash()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        for name in _MODULES:
            self._new_port(name)
        self._logs = Path(settings.data_dir) / "system-logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self.api = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._ports[API]}", timeout=15)

    async def __aenter__(self) -> System:
        try:
            for name in self._names:
                self.start(name)
            await self.ready()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        if error is not None:
            sys.stderr.write(self.tail())

    async def _end(self) -> None:
        await self.api.aclose()
        for child in self._children.values():
            child.terminate()
        for name in list(self._children):
            await self.ended(name, within_s=25)
        self._leash.close()

    def _new_port(self, name: str) -> None:
        self._ports[name] = free_port(taken=set(self._ports.values()))

    def start(self, name: str) -> None:
        """Start one process; see `ready`. ``delivery-stream#2`` is a second one of that kind."""
        if name not in self._ports:
            self._new_port(name)
        own = {"HEALTH_PORT": str(self._ports[name])} if name != API else {"API_PORT": str(self._ports[API])}
        environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
        command = (sys.executable, "-m", _MODULES[name.partition("#")[0]])
        # `env -i`: a child of these tests hears nothing of the developer's environment.
        pairs = [
            f"{key}={value}" for key, value in {**environment, **as_environment(self._settings_of(name)), **own}.items()
        ]
        program = Program(name, ("env", "-i", *pairs, *command), directory=self._logs)
        with (self._logs / f"{name}.log").open("ab") as log:
            self._children[name] = self._leash.spawn(program, log)

    async def ready(self, *names: str) -> None:
        """Wait until each answers its /ready. Raises TimeoutError with its last words."""
        async with httpx.AsyncClient(timeout=5) as client:
            for name in names or self._names:
                await self._ready(client, name)

    async def _ready(self, client: httpx.AsyncClient, name: str) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        said = "nothing"
        while time.monotonic() < deadline:
            if (code := self._children[name].poll()) is not None:
                raise RuntimeError(f"{name} ended with {code}\n{self.tail()}")
            if not (said := await self._why_not(client, name)):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{name} is not ready: {said}\n{self.tail()}")

    async def why_not(self, name: str) -> str:
        """What one process, that may as well be gone, lacks to be ready; "" when it is. One question."""
        async with httpx.AsyncClient(timeout=2) as client:
            return await self._why_not(client, name)

    async def _why_not(self, client: httpx.AsyncClient, name: str) -> str:
        try:
            answer = await client.get(f"http://127.0.0.1:{self._ports[name]}/ready")
        except httpx.HTTPError as error:
            return repr(error)
        return "" if answer.status_code == 200 else answer.text

    def exit_code(self, name: str) -> int | None:
        """Of a process that has ended and was not asked for by `ended` yet; None: it runs, or there is none."""
        child = self._children.get(name)
        return child.poll() if child else None

    def last_words(self, name: str, lines: int = 40) -> str:
        """The end of one log."""
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def pid(self, name: str) -> int:
        """Of one process."""
        return self._children[name].pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process."""
        self._children[name].send_signal(number)

    async def ended(self, name: str, within_s: float = 25) -> int:
        """Its exit code. Kills it and raises TimeoutError when it does not end."""
        child = self._children.pop(name)
        try:
            return await asyncio.to_thread(child.wait, within_s)
        except subprocess.TimeoutExpired:
            child.kill()
            await asyncio.to_thread(child.wait)
            raise TimeoutError(f"{name} did not end within {within_s} s") from None
        finally:
            self._leash.ended(child)

    def tail(self, lines: int = 25) -> str:
        """The last lines of every log, for a failed test."""
        texts = [
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for path in sorted(self._logs.glob("*.log"))
        ]
        return "\n".join(texts) + "\n"

    async def metrics(self, name: str) -> dict[str, float]:
        """What one process counts, by name and labels as they stand in its answer."""
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"http://127.0.0.1:{self._ports[name]}/metrics")
        assert answer.status_code == 200, answer.text
        lines = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
        return {metric: float(value) for metric, _, value in lines}

    # ---- what a producer does --------------------------------------------------------------------------------------

    async def subscribe(self, target_url: str, **fields: Any) -> dict[str, Any]:
        """Create a subscription; gives the answer's body."""
        answer = await self.api.post("/subscriptions/", json={"target_url": target_url, **fields})
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def ingest(self, subscription_id: str, body: bytes, secret: str | None = None, **headers: str) -> str:
        """Send one event, signed when there is a secret; gives the webhook id."""
        answer = await self.api.post(f"/ingest/{subscription_id}", content=body, headers=signed(body, secret) | headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["webhook_id"])

    async def ingest_many(self, bodies: Iterable[tuple[str, bytes]], producers: int = 32) -> list[str]:
        """Send (subscription id, body) pairs, so many at a time; gives the webhook ids of the 202s. All must be 202."""
        left = iter(bodies)
        async with aiohttp.ClientSession(str(self.api.base_url)) as client:

            async def producer() -> list[str]:
                ids = []
                for subscription_id, body in left:
                    path = f"/ingest/{subscription_id}"
                    async with client.post(path, data=body, headers=signed(body, None)) as answer:
                        accepted = await answer.json()
                        assert answer.status == 202, accepted
                        ids.append(accepted["webhook_id"])
                return ids

            return [one for ids in await asyncio.gather(*(producer() for _ in range(producers))) for one in ids]

    async def status(self, webhook_id: str) -> dict[str, Any]:
        """What the API says of a webhook or an event it has accepted."""
        answer = await self.api.get(f"/status/{webhook_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def status_when(
        self, webhook_id: str, status: str, within_s: float = 30, *, unknown_at_first: bool = False
    ) -> dict[str, Any]:
        """The webhook's status once it is ``status``."""
        deadline = time.monotonic() + within_s
        while True:
            answer = await self.api.get(f"/status/{webhook_id}")
            assert answer.status_code == 200 or (unknown_at_first and answer.status_code == 404), answer.text
            found: dict[str, Any] = answer.json()
            if answer.status_code == 200 and found["status"] == status:
                return found
            assert time.monotonic() < deadline, f"still {json.dumps(found)}\n{self.tail()}"
            await asyncio.sleep(0.1)


def signed(body: bytes, secret: str | None, content_type: str = "application/json") -> dict[str, str]:
    """The headers of a producer."""
    headers = {"Content-Type": content_type}
    if secret is not None:
        headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return headers


def as_environment(settings: Settings) -> dict[str, str]:
    """These settings as environment variables."""
    return {name.upper(): _text(getattr(settings, name)) for name in Settings.model_fields}


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


async def read_topic(settings: Settings, topic: str) -> list[ConsumerRecord]:
    """Everything a plain Kafka consumer finds in a topic, up to its present end."""
    consumer = AIOKafkaConsumer(auto_offset_reset="earliest", enable_auto_commit=False, **client_options(settings))
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in await _partitions(consumer, topic)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[ConsumerRecord] = []
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                records += (await consumer.getmany(partition, timeout_ms=1000)).get(partition, [])
        return records
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer._client.set_topics([topic])
    found: set[int] | None = consumer.partitions_for_topic(topic)
    assert found, f"no topic {topic}"
    return found
