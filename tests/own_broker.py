"""A broker of a test's own, to be stopped, killed and started again on the same data."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

from deploy import embedded_kafka, kafka_jars, readiness
from deploy.embedded_kafka import Cluster, Node
from deploy.program import Program


class BrokerProcess:
    """One node of embedded Kafka, a child of the test."""

    def __init__(self, node: Node, program: Program, *, replicas: int) -> None:
        #: Its own address.
        self.bootstrap_servers = node.address
        self.number = node.number
        self._log = node.folder / "kafka.log"
        self._program = program
        self._replicas = replicas
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the process; it is not ready yet."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._program.command, cwd=self._program.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def ready(self) -> None:
        """Wait until it takes records and group members."""
        why = await readiness.until_ready(
            lambda: readiness.kafka_ready(self.bootstrap_servers, self._replicas), within_s=90
        )
        assert not why, f"{why}; {self._log}"

    async def halt(self, how: signal.Signals) -> None:
        """SIGSTOP freezes it; after SIGTERM (in order: it gives up its partitions) and SIGKILL it is gone."""
        assert self._process is not None
        self._process.send_signal(how)
        if how != signal.SIGSTOP:
            await asyncio.to_thread(self._process.wait, 20)

    def go_on(self, how: signal.Signals) -> None:
        """The end of ``halt``: thawed, or started on the same data."""
        assert self._process is not None
        if how == signal.SIGSTOP:
            self._process.send_signal(signal.SIGCONT)
        else:
            self.start()

    async def kill(self) -> None:
        """For the end of a test, whatever its state."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, 10)


class OwnBroker(BrokerProcess):
    """The only broker there is, in a folder."""

    def __init__(self, folder: Path) -> None:
        jars = kafka_jars.ensure_jars()
        cluster = Cluster.on_free_ports(folder, 1, taken=set())
        embedded_kafka.prepare(cluster, jars)
        [node], [program] = cluster.nodes, embedded_kafka.programs(cluster, jars)
        super().__init__(node, program, replicas=1)
