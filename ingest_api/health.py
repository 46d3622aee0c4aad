"""/health, /ready, /live: what we stand on, looked at in the background so that no answer waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ingest_api import auth
from ingest_api.permissions import requires
from shared.clock import Clock

VERSION = version("hooklog")
#: One line of trouble, or "" when all is well.
Check = Callable[[], Awaitable[str]]
Status = Literal["ok", "degraded", "down"]

_EVERY_S = 1.0
#: A check that has not come back for so long is trouble by itself.
_OVERDUE_S = 4.0
#: Without these nothing can be accepted; without the others we go on from memory.
_ESSENTIAL = frozenset({"kafka", "records"})
#: Asked of Postgres: while that does not answer, what it said last stands; its silence is `postgres`, degraded.
_SILENCE_IS_FINE = frozenset({"records"})


@dataclass
class _State:
    trouble: str
    since_s: float = 0.0
    asking: bool = False


class HealthWatch:
    """Runs every check once a second, each in its own task. ``off`` names what is not configured."""

    def __init__(self, checks: Mapping[str, Check], *, off: frozenset[str], clock: Clock) -> None:
        self._checks = checks
        self._off = off
        self._clock = clock
        self._states = {name: _State("" if name in _SILENCE_IS_FINE else "not checked yet") for name in checks}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._watch(name, check), name=f"health-{name}") for name, check in self._checks.items()
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong now, by name."""
        found = {name: self._trouble(name, state) for name, state in self._states.items()}
        return {name: trouble for name, trouble in found.items() if trouble}

    def report(self) -> dict[str, Any]:
        """The body of /health and /ready."""
        troubles = self.troubles
        names = ("kafka", "postgres", "redis")
        checks = {name: "off" if name in self._off else "down" if name in troubles else "ok" for name in names}
        return {"status": _status(troubles), "checks": checks, "version": VERSION, "troubles": troubles}

    def _trouble(self, name: str, state: _State) -> str:
        waited_s = self._clock.monotonic_s() - state.since_s
        if state.asking and waited_s > _OVERDUE_S and name not in _SILENCE_IS_FINE:
            return f"no answer for {waited_s:.0f} s"
        return state.trouble

    async def _watch(self, name: str, check: Check) -> None:
        state = self._states[name]
        while True:
            state.since_s, state.asking = self._clock.monotonic_s(), True
            state.trouble = await check()
            state.asking = False
            await self._clock.sleep(_EVERY_S)


def _status(troubles: Mapping[str, str]) -> Status:
    if _ESSENTIAL & troubles.keys():
        return "down"
    return "degraded" if troubles else "ok"


class Health(BaseModel):
    """What we stand on. Without the key, where keys are asked, only `status`."""

    status: Status
    checks: dict[str, Literal["ok", "down", "off"]] | None = None
    version: str | None = None
    #: One line each, for people; `records` when a position jumped over records.
    troubles: dict[str, str] | None = None


def router(watch: HealthWatch) -> APIRouter:
    """/health is 200 while the process lives; /ready is 503 while no event can be accepted."""
    routes = APIRouter(tags=["health"], dependencies=[requires("open")])

    @routes.get("/health", response_model=Health, response_model_exclude_none=True)
    async def health(request: Request) -> Response:
        return _answer(watch.report(), request, 200)

    @routes.get("/ready", response_model=Health, responses={503: {"model": Health, "description": "Not ready"}})
    async def ready(request: Request) -> Response:
        report = watch.report()
        return _answer(report, request, 503 if report["status"] == "down" else 200)

    @routes.get("/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    return routes


def _answer(report: dict[str, Any], request: Request, status: int) -> Response:
    body = report if auth.key_ok(request.scope) else {"status": report["status"]}
    return Response(orjson.dumps(body), status, media_type="application/json")
