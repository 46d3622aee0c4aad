"""The supervisor over real, tiny processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from deploy.leash import Leash
from deploy.program import Program
from deploy.readiness import Ready
from deploy.supervisor import GaveUp, Service, Supervisor
from tests.processes import is_running

_SLEEP = "import time; time.sleep(600)"


async def _at_once() -> str:
    return ""


def _service(name: str, code: str, ready: Ready = _at_once, **more: object) -> Service:
    within_s = 0.5 if name == "stubborn" else 10.0
    program = Program(name, (sys.executable, "-I", "-S", "-c", code), stop_within_s=within_s)
    return Service(name, ready, program, **more)  # type: ignore[arg-type]


def _supervisor(folder: Path, said: list[str] | None = None, max_restarts: int = 5) -> Supervisor:
    return Supervisor(folder, say=(said if said is not None else []).append, max_restarts=max_restarts)


async def _until(condition: object, within_s: float = 10) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    async with _supervisor(tmp_path, said) as supervisor:
        supervisor.start([_service("worker", _SLEEP)])
        await supervisor.until_ready(["worker"], 10)
        first = supervisor.pids()["worker"]
        os.kill(first, signal.SIGKILL)
        await _until(lambda: supervisor.pids().get("worker", first) != first)
        await supervisor.until_ready(["worker"], 10)
        second = supervisor.pids()["worker"]
        assert is_running(second)
        assert not supervisor.failed.done()
    assert not is_running(second)
    assert any("worker died (SIGKILL)" in line for line in said)


async def test_too_many_deaths_in_a_minute_end_it_by_name_with_its_last_words(tmp_path: Path) -> None:
    async with _supervisor(tmp_path, max_restarts=1) as supervisor:
        supervisor.start([_service("worker", "import sys; sys.exit('no such luck')")])
        with pytest.raises(GaveUp, match=r"worker died 2 times within a minute \(exit 1\): no such luck"):
            async with asyncio.timeout(10):
                await supervisor.failed


async def test_a_death_while_its_store_is_down_does_not_count(tmp_path: Path) -> None:
    async def never() -> str:
        return "connection refused"

    said: list[str] = []
    async with _supervisor(tmp_path, said, max_restarts=0) as supervisor:
        supervisor.start([Service("kafka", never), _service("worker", "raise SystemExit(1)", needs=("kafka",))])
        await _until(lambda: sum("worker died" in line for line in said) >= 3)
        assert not supervisor.failed.done()
    assert any("worker died (exit 1) while kafka is down" in line for line in said)


async def test_an_exit_that_means_unusable_settings_is_not_tried_again(tmp_path: Path) -> None:
    async with _supervisor(tmp_path) as supervisor:
        code = "import sys; print('ENCRYPTION_KEY: wrong', file=sys.stderr); sys.exit(2)"
        supervisor.start([_service("api", code, configuration_exit=2)])
        with pytest.raises(GaveUp, match="api: ENCRYPTION_KEY: wrong") as gave_up:
            async with asyncio.timeout(10):
                await supervisor.failed
    assert gave_up.value.exit_code == 2


async def test_what_is_not_ready_in_time_is_named_with_the_reason(tmp_path: Path) -> None:
    async def never() -> str:
        return "503: no group yet"

    async with _supervisor(tmp_path) as supervisor:
        supervisor.start([_service("worker", _SLEEP, never)])
        with pytest.raises(GaveUp, match=r"worker is not ready after 1 s: 503: no group yet"):
            await supervisor.until_ready(["worker"], 1)


async def test_stores_outlive_what_needs_them(tmp_path: Path) -> None:
    """An orderly stop: the worker is told first, and the store only when the worker has ended."""
    code = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    open(sys.argv[1], "a").write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + sys.argv[2], "w").close()
time.sleep(600)
"""
    ends = tmp_path / "ends"

    def service(name: str, needs: tuple[str, ...] = ()) -> Service:
        handler_is_set = Path(f"{ends}{name}")

        async def ready() -> str:
            return "" if await asyncio.to_thread(handler_is_set.exists) else "not yet"

        command = (sys.executable, "-I", "-S", "-c", code, str(ends), name)
        return Service(name, ready, Program(name, command), needs)

    async with _supervisor(tmp_path / "logs") as supervisor:
        supervisor.start([service("kafka"), service("worker", ("kafka",))])
        await supervisor.until_ready(["kafka", "worker"], 10)
    assert ends.read_text().split() == ["worker", "kafka"]


async def test_a_child_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    log = tmp_path / "stubborn.log"

    async def is_deaf() -> str:
        return "" if log.exists() and "deaf" in log.read_text() else "not yet"

    said: list[str] = []
    async with _supervisor(tmp_path, said) as supervisor:
        supervisor.start([_service("stubborn", code, is_deaf)])
        await supervisor.until_ready(["stubborn"], 10)
        pid = supervisor.pids()["stubborn"]
    assert not is_running(pid)
    assert any("stubborn did not end within 0.5 s of SIGTERM" in line for line in said)


async def test_the_watcher_kills_what_was_not_reported_as_ended(tmp_path: Path) -> None:
    """The way of systems without a parent-death signal; closing the pipe is what our death does."""
    leash = Leash(by_kernel=False)
    program = Program("worker", (sys.executable, "-I", "-S", "-c", _SLEEP))
    with (tmp_path / "log").open("wb") as log:
        child = leash.spawn(program, log)
    assert is_running(child.pid)
    leash.close()
    assert await asyncio.to_thread(child.wait, 5) == -signal.SIGKILL


async def test_logs_are_bounded(tmp_path: Path) -> None:
    from deploy.log_files import LogFile

    log = LogFile(tmp_path / "worker.log", limit_bytes=1000)
    with log.open() as output:
        output.write(b"x" * 1001 + b"\n")
        output.flush()
        log.trim()
        output.write(b"after\n")
        output.flush()
    assert log.last_words() == "after"
    assert log.size() == len(b"after\n")
    assert (tmp_path / "worker.log.1").stat().st_size == 1002
