"""What the delivery benchmarks run on: one stack, one set of topics, and processes whose cost can be read.

A group that is sent back to where the log began reads the same records again, so the topic is filled once.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from deploy.embedded_kafka import Memory
from deploy.leash import Leash
from deploy.migrate import migrate
from deploy.program import Program, free_port
from shared.database import Database
from shared.encryption import Cipher
from shared.kafka import client_options, ensure_topics
from shared.record_ids import new_webhook_id
from shared.records import Delivery, Record
from shared.settings import Settings
from shared.subscriptions import NewSubscription, SubscriptionStore
from tests.benchmarks.loopback import Loopback, payload
from tests.conftest import settings_for_tests
from tests.stacks import find_stack
from tests.system import as_environment

_ROOT = Path(__file__).resolve().parents[2]
WORKER = ("delivery_stream",)
SCHEDULER = ("retry_scheduler",)
#: As a broker has it: with 256 MiB it stops every 2 s to collect, and that would be measured.
KAFKA_MEMORY = Memory("1g")
_READY_WITHIN_S = 60.0
#: The worker ends itself after 20 s.
_STOP_WITHIN_S = 25.0
#: Whoever did not leave its group is in it for a session.
_GROUP_EMPTY_WITHIN_S = 15.0
#: As /proc/net/tcp calls it; one that the other side has closed and we have not is another.
_ESTABLISHED = "01"
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Running:
    """A process of the benchmark."""

    def __init__(self, child: subprocess.Popen[bytes], leash: Leash, health_port: int) -> None:
        self._child, self._leash, self._health_port = child, leash, health_port
        self._stat = Path(f"/proc/{child.pid}/stat")

    @property
    def url(self) -> str:
        """Of its health, and of the API if it is one."""
        return f"http://127.0.0.1:{self._health_port}"

    def cpu_s(self) -> float:
        """User and system time, so far."""
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND

    def rss_mib(self) -> float:
        """The most it had so far."""
        status = self._stat.with_name("status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def rss_now_mib(self) -> float:
        """What it has now."""
        return int(self._stat.with_name("status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

    def descriptors(self) -> int:
        """How many it has open; connections that others opened to its port, and keep, are theirs."""
        port = f":{self._health_port:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        theirs = sum(local.endswith(port) and state == _ESTABLISHED for _, local, _, state, *_ in rows)
        return len(os.listdir(self._stat.with_name("fd"))) - theirs

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    async def ready(self) -> None:
        """Wait for its /ready."""
        async with httpx.AsyncClient(timeout=5) as client, asyncio.timeout(_READY_WITHIN_S):
            while not self.ended:
                try:
                    if (await client.get(f"{self.url}/ready")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.1)
        raise RuntimeError(f"ended with {self._child.returncode}")

    async def stop(self) -> None:
        """In order, if it can."""
        self._child.terminate()
        try:
            code = await asyncio.to_thread(self._child.wait, _STOP_WITHIN_S)
            if code > 0:
                print(f"  it ended with {code}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"  it did not stop within {_STOP_WITHIN_S:g} s", flush=True)
            self._child.kill()
            await asyncio.to_thread(self._child.wait)
        self._leash.ended(self._child)


class Pipeline:
    """Topics, subscriptions and processes under one prefix."""

    def __init__(self, settings: Settings, folder: Path, leash: Leash) -> None:
        self.settings = settings
        self.folder = folder
        self._leash = leash
        #: Of the endpoints of the receiver, in their order.
        self.subscriptions: list[str] = []

    async def set_up(self, receiver: Loopback) -> None:
        """Topics, and a subscription for each endpoint."""
        migrate(self.settings.database_url.get_secret_value())
        await ensure_topics(self.settings)
        database = Database(self.settings.database_url.get_secret_value())
        store = SubscriptionStore(database, Cipher(self.settings.encryption_key.get_secret_value()))
        targets = {}
        for endpoint in range(receiver.endpoints):
            created = store.create(NewSubscription(receiver.url(endpoint)))
            self.subscriptions.append(created.subscription.id)
            url = created.subscription.target_url
            targets[created.subscription.id] = {"url": url, "signing_secret": created.signing_secret}
        database.close()
        self.targets.write_text(json.dumps(targets))

    @property
    def targets(self) -> Path:
        """What contenders are told of the subscriptions."""
        return self.folder / "subscriptions.json"

    def start(self, module: Sequence[str]) -> Running:
        """``python -m`` this, with nothing of our own environment but its paths."""
        port = free_port()
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ}
        environment = kept | as_environment(self.settings) | {"PYTHONPATH": str(_ROOT)}
        environment |= dict.fromkeys(("HEALTH_PORT", "API_PORT"), str(port))
        pairs = [f"{name}={value}" for name, value in environment.items()]
        program = Program(module[0], ("env", "-i", *pairs, sys.executable, "-m", *module), directory=self.folder)
        with (self.folder / f"{module[0]}.log").open("ab") as log:
            return Running(self._leash.spawn(program, log), self._leash, port)

    def delivery(self, endpoint: int, stamp: int, size_bytes: int) -> Record:
        """A new record of `deliveries`."""
        delivery = Delivery(
            webhook_id=new_webhook_id(),
            subscription_id=self.subscriptions[endpoint],
            payload=payload(stamp, size_bytes),
            accepted_ms=time.time_ns() // 1_000_000,
            event_type="order.paid",
            content_type="application/json",
        )
        return delivery.to_record(self.settings.topics.deliveries)

    async def send_group_to(self, group: str, topics: Sequence[str], *, end: bool) -> None:
        """Where its next member begins: the end of these topics, or their beginning. It has no member now."""
        consumer = AIOKafkaConsumer(group_id=group, enable_auto_commit=False, **client_options(self.settings))
        await consumer.start()
        try:
            places = self._places(topics)
            consumer.assign(places)
            offsets = await (consumer.end_offsets(places) if end else consumer.beginning_offsets(places))
            wanted = {place: OffsetAndMetadata(at, "") for place, at in offsets.items()}
            async with asyncio.timeout(_GROUP_EMPTY_WITHIN_S):
                while not await _committed(consumer, wanted):  # noqa: ASYNC110  nothing tells that a group is empty
                    await asyncio.sleep(0.5)
        finally:
            await consumer.stop()

    async def records(self, *topics: str) -> int:
        """How many were written to these topics."""
        async with self.counting(*topics) as count:
            return await count()

    @asynccontextmanager
    async def counting(self, *topics: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """The same, as often as it is called."""

        async def count() -> int:
            return sum((await consumer.end_offsets(self._places(topics))).values())

        consumer = AIOKafkaConsumer(**client_options(self.settings))
        await consumer.start()
        try:
            yield count
        finally:
            await consumer.stop()

    def tail(self, lines: int = 20) -> str:
        """The last words of every process."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join("\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs)

    @property
    def tiers(self) -> list[str]:
        return [self.settings.topics.tier(delay_s) for delay_s in self.settings.schedule.tiers_s]

    def _places(self, topics: Sequence[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in range(self.settings.partitions)]


async def _committed(consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, OffsetAndMetadata]) -> bool:
    """False while the group has a member."""
    try:
        await consumer.commit(offsets)
    except CommitFailedError:
        return False
    return True


@contextmanager
def pipeline(*, kafka_memory: Memory = KAFKA_MEMORY, **settings: object) -> Iterator[Pipeline]:
    """On the stack that tests use; everything ends with the block."""
    with ExitStack() as at_end:
        stack = at_end.enter_context(find_stack(kafka_memory=kafka_memory))
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="hooklog-benchmark-")))
        leash = Leash()
        at_end.callback(leash.close)
        as_shipped = {"partitions": 8, "retry_delays": "10s,40s,160s", "webhook_delivery_timeout_seconds": 10.0}
        values = as_shipped | {"data_dir": folder} | settings
        yield Pipeline(settings_for_tests(stack, f"bench{secrets.token_hex(4)}", **values), folder, leash)


def machine() -> str:
    """What a figure depends on."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
