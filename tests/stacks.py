"""Where the tests' Kafka, Postgres and Redis come from: the environment, else containers, else the embedded parts."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy import embedded_kafka, embedded_postgres, embedded_redis
from deploy.kafka_jars import KAFKA_VERSION, ensure_jars
from deploy.leash import Leash, signal_group
from deploy.program import Program, free_port, take_port
from deploy.readiness import Ready, kafka_ready, postgres_ready, redis_ready, until_ready
from shared.settings import Settings

_START_WITHIN_S = 90


@dataclass(frozen=True, slots=True)
class Stack:
    """Addresses of running stores."""

    bootstrap_servers: str
    #: As a user that may create databases, in a database that is always there.
    database_url: str
    #: "" when there is no Redis.
    redis_url: str
    source: str = "embedded"
    #: How many replicas a topic should have there.
    replicas: int = 1


@contextmanager
def find_stack(*, kafka_memory: embedded_kafka.Memory | None = None) -> Iterator[Stack]:
    """The first of the three sources that is there; what was started is stopped. ``kafka_memory``: if embedded."""
    if named := from_environment():
        yield named
    elif docker_answers():
        with containers() as stack:
            yield stack
    else:
        with embedded(kafka_memory) as stack:
            yield stack


def from_environment() -> Stack | None:
    """Named by KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL together."""
    bootstrap_servers, database_url = os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), os.environ.get("DATABASE_URL")
    if not bootstrap_servers or not database_url:
        return None
    return Stack(bootstrap_servers, database_url, os.environ.get("REDIS_URL", ""), "environment")


def docker_answers() -> bool:
    """Whether a Docker engine is there."""
    sockets = (Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock")
    if "DOCKER_HOST" not in os.environ and not any(path.exists() for path in sockets):
        return False
    from docker.errors import DockerException
    from testcontainers.core.docker_client import DockerClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # docker-py forgets the socket of a refused connection
        try:
            return bool(DockerClient(timeout=5).client.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()


@contextmanager
def containers() -> Iterator[Stack]:
    """The same versions from public images, on free ports of loopback."""
    from testcontainers.core.container import DockerContainer

    kafka_port, postgres_port, redis_port = free_port(), free_port(), free_port()
    kafka = DockerContainer(f"apache/kafka:{KAFKA_VERSION}").with_envs(**_kafka_variables(kafka_port))
    postgres = DockerContainer(f"postgres:{embedded_postgres.POSTGRES_VERSION}-alpine").with_envs(
        POSTGRES_USER="hooklog", POSTGRES_PASSWORD="hooklog", POSTGRES_DB="postgres"
    )
    redis = DockerContainer("redis:7-alpine")
    with (
        kafka.with_bind_ports(kafka_port, kafka_port),
        postgres.with_bind_ports(5432, postgres_port),
        redis.with_bind_ports(6379, redis_port),
    ):
        database_url = f"postgresql://hooklog:hooklog@127.0.0.1:{postgres_port}/postgres"
        stack = Stack(f"127.0.0.1:{kafka_port}", database_url, embedded_redis.url(redis_port), "containers")
        _wait_for(stack)
        yield stack


@contextmanager
def embedded(kafka_memory: embedded_kafka.Memory | None = None) -> Iterator[Stack]:
    """Started in a temporary folder, Kafka as often as KAFKA_BROKERS says; they end with us."""
    with ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="hooklog-tests-")))
        folder.chmod(0o711)  # Postgres' user, when we are root
        leash = Leash()
        at_end.callback(leash.close)
        stack, programs = prepare(folder, kafka_memory=kafka_memory, durable=False)
        for program in programs:
            at_end.enter_context(running(program, folder, leash))
        _wait_for(stack)
        yield stack


@contextmanager
def running(program: Program, folder: Path, leash: Leash) -> Iterator[subprocess.Popen[bytes]]:
    """The program, until the end of the block."""
    with (folder / f"{program.name}.log").open("ab") as log:
        child = leash.spawn(program, log)
    try:
        yield child
    finally:
        signal_group(child, program.kill_signal)
        try:
            child.wait(timeout=program.stop_within_s)
        except subprocess.TimeoutExpired:
            signal_group(child, signal.SIGKILL)
            child.wait()
        leash.ended(child)


def prepare(
    folder: Path, *, kafka_memory: embedded_kafka.Memory | None = None, durable: bool
) -> tuple[Stack, list[Program]]:
    """Where they will answer, and what to run; without Redis where there is none. Not ``durable``: see Postgres."""
    brokers = Settings(_env_file=None).kafka_brokers
    jars, taken = ensure_jars(), set[int]()
    kafka = embedded_kafka.Cluster.on_free_ports(folder / "kafka", brokers, taken=taken)
    postgres_port = take_port(0, taken)
    embedded_kafka.prepare(kafka, jars)
    embedded_postgres.prepare(folder / "postgres")
    programs = [
        *embedded_kafka.programs(kafka, jars, kafka_memory),
        embedded_postgres.program(folder / "postgres", port=postgres_port, durable=durable),
    ]
    redis_url = ""
    if server := embedded_redis.find_server():
        redis_port = take_port(0, taken)
        programs.append(embedded_redis.program(server, folder / "redis", port=redis_port))
        redis_url = embedded_redis.url(redis_port)
    database_url = embedded_postgres.url(folder / "postgres", port=postgres_port)
    return Stack(kafka.bootstrap_servers, database_url, redis_url, replicas=brokers), programs


def checks_of(stack: Stack) -> dict[str, Ready]:
    """How to ask each part, by its program's name."""
    brokers = stack.bootstrap_servers.split(",")
    names = ["kafka"] if len(brokers) == 1 else [f"kafka-{number}" for number, _ in enumerate(brokers, 1)]
    checks: dict[str, Ready] = {
        name: partial(kafka_ready, broker, stack.replicas) for name, broker in zip(names, brokers, strict=True)
    }
    checks["postgres"] = lambda: postgres_ready(stack.database_url)
    if stack.redis_url:
        checks["redis"] = lambda: redis_ready(stack.redis_url)
    return checks


def _wait_for(stack: Stack) -> None:
    for name, ready in checks_of(stack).items():
        why = asyncio.run(until_ready(ready, within_s=_START_WITHIN_S))
        if why:
            raise RuntimeError(f"{name} for the tests did not become ready: {why}")


def _kafka_variables(port: int) -> dict[str, str]:
    """The image takes its properties as variables; the port is the same inside, so that one address serves."""
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:29093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    }
