"""Keeps processes running: starts them, knows when they are ready, restarts what dies, ends all of them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.leash import Leash, signal_group
from deploy.log_files import LogFile
from deploy.program import Program
from deploy.readiness import Ready, ask
from shared.errors import HooklogError

#: One line for the person in front of the terminal.
Say = Callable[[str], None]

_POLL_S = 0.05
_ASK_EVERY_S = 0.1
_ASK_OTHERS_EVERY_S = 2.0
_TRIM_EVERY_S = 2.0
_SAY_EVERY_S = 15.0
_WINDOW_S = 60.0
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 10.0
#: What needs a store may still fall over this long after the store is back.
_AFTERMATH_S = 10.0


class GaveUp(HooklogError):
    """A process that will not run. The text is one line and names it; ``exit_code`` is what we should end with."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Service:
    """A program of ours, or with ``program=None`` a store that someone else runs."""

    name: str
    ready: Ready
    program: Program | None = None
    #: Names of stores. A death while one of them is down does not count.
    needs: tuple[str, ...] = ()
    #: This exit code says that its settings cannot be used: no use in trying again.
    configuration_exit: int | None = None


@dataclass(slots=True)
class _State:
    service: Service
    log: LogFile
    task: asyncio.Task[None] | None = None
    child: subprocess.Popen[bytes] | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    down_until: float = 0.0
    #: When it died of itself, within the last minute: too many end the stack.
    deaths: deque[float] = field(default_factory=deque)
    #: Deaths in a row, excused ones too: each waits longer than the one before.
    row: int = 0
    started_at: float = 0.0
    log_from: int = 0
    why_not: str = "not started"


class Supervisor:
    """Use as ``async with``: at the end of the block everything that it started is stopped."""

    def __init__(self, logs: Path, *, say: Say, max_restarts: int, leash: Leash | None = None) -> None:
        self._logs = logs
        self._say = say
        self._max_restarts = max_restarts
        self._leash = leash or Leash()
        self._states: dict[str, _State] = {}
        self._trimming: asyncio.Task[None] | None = None
        self._hurry = False
        #: Holds the GaveUp once there is one.
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Supervisor:
        self._trimming = asyncio.create_task(self._trim_logs())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._trimming:
            self._trimming.cancel()
        await self._stop()
        self._leash.close()
        if not self.failed.cancel():
            self.failed.exception()  # seen, whether or not somebody waited for it

    def start(self, services: Iterable[Service]) -> None:
        """Start these and keep them running from now on."""
        for service in services:
            state = _State(service, LogFile(self._logs / f"{service.name}.log"))
            self._states[service.name] = state
            keep = self._keep(state) if service.program else self._observe(state)
            state.task = asyncio.create_task(keep, name=service.name)
            state.task.add_done_callback(self._note_failure)

    async def until_ready(self, names: Sequence[str], within_s: float) -> None:
        """Wait for all of these. Raises GaveUp with the first that is not ready in time."""
        deadline = time.monotonic() + within_s
        for state in [self._states[name] for name in names]:
            while not state.up.is_set():
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise GaveUp(f"{state.service.name} is not ready after {within_s:.0f} s: {self._about(state)}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, _SAY_EVERY_S)):
                        await state.up.wait()
                if not state.up.is_set() and left_s > _SAY_EVERY_S:
                    self._say(f"waiting for {state.service.name}: {state.why_not}")

    def hurry(self) -> None:
        """No more waiting for orderly ends."""
        self._hurry = True
        for state in self._states.values():
            if state.child and state.service.program:
                signal_group(state.child, state.service.program.kill_signal)

    def pids(self) -> dict[str, int]:
        """What runs at present, by name."""
        return {name: state.child.pid for name, state in self._states.items() if state.child}

    async def _keep(self, state: _State) -> None:
        """One process: start, watch, start again; raises GaveUp."""
        while True:
            child = self._spawn(state)
            watching = asyncio.create_task(self._watch_until_ready(state))
            try:
                await _ended(child)
            finally:
                watching.cancel()
            self._leash.ended(child)
            await self._after_death(state, child.returncode)

    def _spawn(self, state: _State) -> subprocess.Popen[bytes]:
        assert state.service.program
        state.log_from, state.started_at = state.log.size(), time.monotonic()
        try:
            with state.log.open() as output:
                state.child = self._leash.spawn(state.service.program, output)
        except OSError as error:
            raise GaveUp(f"{state.service.name} cannot be started: {error}") from error
        return state.child

    async def _watch_until_ready(self, state: _State) -> None:
        while why := await ask(state.service.ready):
            state.why_not = why
            await asyncio.sleep(_ASK_EVERY_S)
        self._is_up(state)

    def _is_up(self, state: _State) -> None:
        self._say(f"{state.service.name} is ready ({time.monotonic() - state.started_at:.1f} s)")
        state.up.set()

    async def _after_death(self, state: _State, code: int) -> None:
        """Say it, count it, wait a little. Raises GaveUp."""
        now, name = time.monotonic(), state.service.name
        self._is_down(state, now)
        if code == state.service.configuration_exit:
            raise GaveUp(f"{name}: {state.log.last_words(state.log_from) or self._about(state)}", exit_code=code)
        excuse = self._store_trouble(state, now)
        if not excuse:
            state.deaths.append(now)
            while state.deaths[0] < now - _WINDOW_S:
                state.deaths.popleft()
        if len(state.deaths) > self._max_restarts:
            times = f"died {len(state.deaths)} times within a minute" if self._max_restarts else "died"
            raise GaveUp(f"{name} {times} ({_ended_how(code)}): {self._about(state)}")
        state.row = state.row + 1 if now - state.started_at < _WINDOW_S else 1
        backoff_s = min(_FIRST_BACKOFF_S * 2 ** min(state.row - 1, 10), _LONGEST_BACKOFF_S)
        because = f" while {excuse} is down" if excuse else ""
        self._say(f"!! {name} died ({_ended_how(code)}){because}; starting it again in {backoff_s:g} s")
        await asyncio.sleep(backoff_s)

    def _is_down(self, state: _State, now: float) -> None:
        state.child, state.why_not = None, "it died"
        state.up.clear()
        state.down_until = now

    def _store_trouble(self, state: _State, now: float) -> str:
        """The store that excuses a death: down now, or up again for a moment only."""
        for name in state.service.needs:
            store = self._states[name]
            if not store.up.is_set() or (store.down_until and now - store.down_until < _AFTERMATH_S):
                return name
        return ""

    async def _observe(self, state: _State) -> None:
        """A store that someone else runs: only whether it answers."""
        state.started_at = time.monotonic()
        while True:
            state.why_not = await ask(state.service.ready)
            if state.why_not and state.up.is_set():
                self._say(f"!! {state.service.name} does not answer: {state.why_not}")
                state.up.clear()
            elif not state.why_not and not state.up.is_set():
                self._is_up(state)
            if state.why_not:
                state.down_until = time.monotonic()
            await asyncio.sleep(_ASK_EVERY_S if not state.up.is_set() else _ASK_OTHERS_EVERY_S)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    def _about(self, state: _State) -> str:
        words = state.log.last_words(state.log_from) if state.service.program else ""
        where = f"; see {state.log.path}" if state.service.program else ""
        return (words or state.why_not) + where

    async def _trim_logs(self) -> None:
        while True:
            for state in self._states.values():
                state.log.trim()
            await asyncio.sleep(_TRIM_EVERY_S)

    async def _stop(self) -> None:
        """First what needs something, then what others needed."""
        tasks = [state.task for state in self._states.values() if state.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        needed = {name for state in self._states.values() for name in state.service.needs}
        running = [state for state in self._states.values() if state.child]
        await asyncio.gather(*(self._end(state) for state in running if state.service.name not in needed))
        await asyncio.gather(*(self._end(state) for state in running if state.service.name in needed))

    async def _end(self, state: _State) -> None:
        """Ask, wait, insist. Returns when it is gone."""
        child, program = state.child, state.service.program
        assert child
        assert program
        asks = (
            (program.stop_signal, program.stop_within_s),
            (program.kill_signal, 5.0),
            (signal.SIGKILL, 5.0),
        )
        for number, within_s in asks[1:] if self._hurry else asks:
            signal_group(child, number)
            if await _gone(child, within_s):
                break
            self._say(f"{state.service.name} did not end within {within_s:g} s of {number.name}")
        self._leash.ended(child)
        state.child = None


async def _gone(child: subprocess.Popen[bytes], within_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await _ended(child)
    return child.poll() is not None


async def _ended(child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None:  # noqa: ASYNC110 - no thread, no signal handler: nothing that a fork could trip over
        await asyncio.sleep(_POLL_S)


def _ended_how(code: int) -> str:
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name
