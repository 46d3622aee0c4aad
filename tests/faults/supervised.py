"""What the fault tests kill: ``python -m tests.faults.supervised FOLDER kernel|pipe``. Prints its children's pids."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from deploy import embedded_postgres
from deploy.leash import Leash
from deploy.program import Program, free_port
from deploy.readiness import postgres_ready
from deploy.supervisor import Service, Supervisor

_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


async def main(folder: Path, way: str) -> None:
    """A process that ignores SIGTERM, and a Postgres with children of its own."""
    embedded_postgres.prepare(folder / "postgres")
    port = free_port()
    url = embedded_postgres.url(folder / "postgres", port=port)
    deaf = Program("deaf", (sys.executable, "-I", "-S", "-c", _DEAF))
    services = [
        Service("postgres", lambda: postgres_ready(url), embedded_postgres.program(folder / "postgres", port=port)),
        Service("deaf", lambda: postgres_ready(url), deaf),
    ]
    leash = Leash(by_kernel=way == "kernel")
    async with Supervisor(folder / "logs", say=lambda _: None, max_restarts=0, leash=leash) as supervisor:
        supervisor.start(services)
        await supervisor.until_ready(["postgres", "deaf"], 30)
        sys.stdout.write(json.dumps(supervisor.pids()) + "\n")
        sys.stdout.flush()
        await supervisor.failed


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
