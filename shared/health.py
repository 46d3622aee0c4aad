"""/live, /ready and /metrics of the processes that have no API of their own, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.metrics import exposition

#: What is wrong, by name of the check: empty when all is well.
Troubles = Callable[[], Mapping[str, str]]


async def serve_health(port: int, *, live: Troubles, ready: Troubles) -> asyncio.Task[None]:
    """Serve on 127.0.0.1:``port`` in a task of this loop; cancel the task to stop. 200 without troubles, else 503."""
    app = Starlette(
        routes=[Route("/live", _answer(live)), Route("/ready", _answer(ready)), Route("/metrics", _metrics)]
    )
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="off")
    server = _Server(config)
    return asyncio.create_task(server.serve_until_cancelled(), name="health")


class _Server(uvicorn.Server):
    """Leaves the signals to the process it lives in, and its socket to nobody."""

    servers: list[asyncio.Server] = []  # noqa: RUF012 - replaced, never changed, once it listens

    async def serve_until_cancelled(self) -> None:
        try:
            await self.serve()
        finally:
            for server in self.servers:
                server.close()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _metrics(_request: Request) -> Response:
    """In a thread: it takes milliseconds."""
    body, content_type = exposition()
    return Response(body, headers={"Content-Type": content_type})


def _answer(troubles: Troubles) -> Callable[[Request], Response]:
    def answer(_request: Request) -> Response:
        found = dict(troubles())
        return JSONResponse({"status": "down" if found else "ok", "troubles": found}, 503 if found else 200)

    return answer
