"""A stack of a test's own: Kafka, Postgres and Redis, each to be killed or frozen and to go on with its data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.leash import Leash
from deploy.migrate import migrate
from deploy.program import Program
from deploy.readiness import ask, until_ready
from shared.kafka import ensure_topics
from shared.settings import Settings
from tests.conftest import database_url_of, fresh_name, settings_for_tests
from tests.processes import children_of
from tests.stacks import Stack, checks_of, prepare

KAFKA = "kafka"
POSTGRES = "postgres"
REDIS = "redis"

_START_WITHIN_S = 90


class OwnStack:
    """``async with OwnStack() as stack``: all parts are ready; they and their folder are gone afterwards.

    What it is told of a part by name is what `System` is told of a process.
    """

    def __init__(self) -> None:
        self._leash = Leash()
        self._temporary = tempfile.TemporaryDirectory(prefix="hooklog-tests-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o711)  # Postgres' user, when we are root
        self._programs: dict[str, Program] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> Self:
        try:
            self.stack, programs = self._prepare()
            self._checks = checks_of(self.stack)
            for program in programs:
                self._programs[program.name] = program
                self.start(program.name)
            for name, check in self._checks.items():
                why = await until_ready(check, within_s=_START_WITHIN_S)
                assert not why, f"{name} of a test's own is not ready: {why}\n{self.last_words(name)}"
        except BaseException:
            await self._end()
            raise
        return self

    def _prepare(self) -> tuple[Stack, list[Program]]:
        return prepare(self.folder, durable=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for name in self._programs:
                sys.stderr.write(f"--- {name}\n{self.last_words(name)}\n")
        await self._end()

    async def _end(self) -> None:
        for name in list(self._children):
            self.kill(name)
            await self.ended(name)
        self._leash.close()
        self._temporary.cleanup()

    @property
    def names(self) -> tuple[str, ...]:
        """The parts there are; no Redis where the machine has none."""
        return tuple(self._programs)

    def start(self, name: str) -> None:
        """Run it, on the same data and port as before. It is not ready yet."""
        with self._log(name).open("ab") as log:
            self._children[name] = self._leash.spawn(self._programs[name], log)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal to the process and to its children: those of Postgres lead groups of their own."""
        pid = self._children[name].pid
        for one in (pid, *children_of(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    async def ended(self, name: str, within_s: float = 20) -> int:
        """Its exit code; what has not ended by then is killed."""
        child = self._children.pop(name)
        try:
            return await asyncio.to_thread(child.wait, within_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return await asyncio.to_thread(child.wait)
        finally:
            self._leash.ended(child)

    def exit_code(self, name: str) -> int | None:
        """Of a part that has ended and was not asked for by `ended` yet; None: it runs, or there is none."""
        child = self._children.get(name)
        return child.poll() if child else None

    async def why_not(self, name: str) -> str:
        """What it lacks to be ready; "" when it is. One question."""
        return await ask(self._checks[name])

    def last_words(self, name: str, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    async def fresh_settings(self, **overrides: Any) -> Settings:
        """A migrated database and topics under a name of their own on this stack."""
        name = fresh_name()
        await asyncio.to_thread(migrate, database_url_of(self.stack, name))
        folder = self.folder / name
        folder.mkdir()
        settings = settings_for_tests(self.stack, name, **({"data_dir": folder} | overrides))
        await ensure_topics(settings)
        return settings
