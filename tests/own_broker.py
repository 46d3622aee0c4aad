"""A broker of a test's own, to be stopped, killed and started again on the same data."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

from deploy import embedded_kafka, kafka_jars, readiness
from deploy.program import free_port


class OwnBroker:
    """Embedded Kafka in a folder, a child of the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{port}"
        jars = kafka_jars.ensure_jars()
        embedded_kafka.prepare(folder, jars, port=port, controller_port=free_port(taken={port}))
        self._program = embedded_kafka.program(folder, jars)

    def start(self) -> None:
        """Run the process; it is not ready yet."""
        with (self._folder / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._program.command, cwd=self._program.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def ready(self) -> None:
        """Wait until it takes records and group members."""
        why = await readiness.until_ready(lambda: readiness.kafka_ready(self.bootstrap_servers), within_s=90)
        assert not why, f"{why}; {self._folder / 'kafka.log'}"

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
