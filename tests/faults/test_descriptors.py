"""A process has no file descriptor left, under load, and gets some again."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest

from tests.faults.counted import counted, refused
from tests.faults.figures import Figures
from tests.faults.form import SEED
from tests.faults.trial import Trial
from tests.own_stack import KAFKA
from tests.proxied_stack import ProxiedStack, cut, reopen
from tests.system import API, PROGRAMS, STREAM

EXHAUSTED_S = 12.0


@pytest.mark.long_form
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux changes the limits of a running process")
@pytest.mark.parametrize("name", [API, STREAM])
@pytest.mark.parametrize("kafka_cut", [False, True], ids=["", "kafka cut"])
async def test_a_process_without_descriptors_loses_nothing_and_goes_on_with_them(
    proxied_stack: ProxiedStack, figures: Figures, name: str, kafka_cut: bool
) -> None:
    print(f"FAULTS_SEED={SEED}")
    settings = await proxied_stack.fresh_settings()
    async with Trial(proxied_stack, settings, SEED, system=proxied_stack.system(settings)) as trial:
        async with trial.load.running():
            await asyncio.sleep(1)
            ways = proxied_stack.ways(KAFKA, (name,)) if kafka_cut else []
            async with trial.fault(name, "descriptors", sufferers=PROGRAMS):
                with no_descriptors(trial.system.pid(name)) as open_before:
                    first = max(trial.load.sent) + 1
                    await cut(ways)
                    await reopen(ways)  # whoever wants to connect again, needs one
                    async with connections_end(trial), connections_wanted(trial):
                        await asyncio.sleep(EXHAUSTED_S)
                        live = await asked(trial, name)
                    last = max(trial.load.sent)
        line = (
            f"{name} without descriptors ({open_before} open) for {EXHAUSTED_S:.0f} s{', Kafka cut' * kafka_cut}: "
            f"/live {live}, {refused(trial, first, last)} of {last - first + 1} events not taken, "
            f"ready after {trial.struck[-1].ready_after_s:.1f} s, works after {trial.struck[-1].works_after_s:.1f} s"
        )
        print(line)
        figures.say(line)
        await counted(trial, figures)


@contextmanager
def no_descriptors(pid: int) -> Iterator[int]:
    """None beyond those that are open, and none of these again once it is closed; gives how many they are."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield len(os.listdir(f"/proc/{pid}/fd"))
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def connections_end(trial: Trial) -> AsyncIterator[None]:
    """Those to the endpoints, while they answer nobody: whoever delivers has to connect again."""

    async def end() -> None:
        for connection in list(trial.receiver._connections):
            if not connection._unanswered:
                connection.cut()

    async with _meanwhile(end, every_s=1):
        yield


@asynccontextmanager
async def connections_wanted(trial: Trial) -> AsyncIterator[None]:
    """Producers that come to the API for the first time, a few at a time."""

    async def want() -> None:
        async with httpx.AsyncClient(base_url=trial.system.api.base_url, timeout=1) as client:
            await asyncio.gather(*(client.get("/live") for _ in range(20)), return_exceptions=True)

    async with _meanwhile(want, every_s=0.2):
        yield


@asynccontextmanager
async def _meanwhile(work: Callable[[], Awaitable[None]], every_s: float) -> AsyncIterator[None]:
    """Again and again; to its end, for a connection that is cancelled while it is made is left open."""
    stop = asyncio.Event()

    async def again() -> None:
        while not stop.is_set():
            await work()
            await asyncio.sleep(every_s)

    async with asyncio.TaskGroup() as together:
        together.create_task(again())
        try:
            yield
        finally:
            stop.set()


async def asked(trial: Trial, name: str) -> str:
    """What /live says to somebody who connects now."""
    async with httpx.AsyncClient(timeout=3) as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{trial.system._ports[name]}/live")
        except httpx.HTTPError as error:
            return type(error).__name__
    return f"{answer.status_code} {answer.text}"
