"""Requests/s of the warm ingest route, and of a bare Starlette route on the same server, in one run.

`python -m tests.benchmarks.ingest [seconds]`: one worker, 64 connections, signed bodies of 1 KiB, the broker's ack
awaited; five pairs, their median. The producers are this process, each server is one of its own; the CPU time a request
takes in its server tells more than its rate where broker and producers share the cores. The stack is the tests': the
one that KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL (a maintenance database) name, else one of its own (tests/stacks.py).
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import secrets
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvloop
from cryptography.fernet import Fernet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.migrate import migrate
from ingest_api.app import create_app
from ingest_api.parts import build_parts
from ingest_api.server import new_server
from shared.collector import calm_collector
from shared.kafka import ensure_topics
from shared.settings import Settings
from shared.signature import hub_signature
from tests.conftest import delete_topics
from tests.stacks import Stack, find_stack

_CONNECTIONS = 64
_PAIRS = 5
_BODY = b'{"event_type": "order.created", "payload": "' + b"x" * 975 + b'"}'
_SECRET = "benchmark"


@dataclass
class Load:
    """What 64 connections saw."""

    statuses: dict[bytes, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


class Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last is here; lean, so that it is not what is measured."""

    def __init__(self, request: bytes, load: Load) -> None:
        self._request = request
        self._load = load
        self._buffer = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(head):
            self._buffer = b""
            self._load.latencies_s.append(time.perf_counter() - self._sent_s)
            status = head[9:12]
            self._load.statuses[status] = self._load.statuses.get(status, 0) + 1
            self._send()

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(self._request)


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


async def _measure(port: int, pid: int, request: bytes, seconds: float) -> Load:
    loop, load = asyncio.get_running_loop(), Load()
    made = [
        await loop.create_connection(lambda: Connection(request, load), "127.0.0.1", port) for _ in range(_CONNECTIONS)
    ]
    await asyncio.sleep(1)  # warm
    load.latencies_s.clear()
    load.statuses.clear()
    began_s = _cpu_s(pid)
    await asyncio.sleep(seconds)
    load.cpu_s = _cpu_s(pid) - began_s
    for transport, _ in made:
        transport.abort()
    return load


def _serve_bare(listener: socket.socket) -> None:
    async def accept(request: Request) -> Response:
        await request.body()
        return Response(status_code=202)

    logging.disable()
    app = Starlette(routes=[Route("/ingest/{subscription_id}", accept, methods=["POST"])])
    calm_collector()
    uvloop.run(new_server(app).serve(sockets=[listener]))


def _serve_api(listener: socket.socket, settings: Settings) -> None:
    async def serve() -> None:
        parts = build_parts(settings)
        await parts.start()
        server = new_server(create_app(settings, parts))
        calm_collector()
        await server.serve(sockets=[listener])

    logging.disable()
    uvloop.run(serve())


def _request(port: int, subscription_id: str) -> bytes:
    signature = hub_signature(_SECRET.encode(), _BODY)
    head = (
        f"POST /ingest/{subscription_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"User-Agent: benchmark\r\nAccept: */*\r\nX-Hub-Signature-256: {signature}\r\n"
        f"Content-Length: {len(_BODY)}\r\n\r\n"
    )
    return head.encode() + _BODY


async def _subscribe(port: int) -> str:
    body = {"target_url": "https://example.com/", "secret": _SECRET}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        answer = await client.post("/subscriptions/", json=body)
        answer.raise_for_status()
        subscription_id: str = answer.json()["id"]
        return subscription_id


def _cpu_s(pid: int) -> float:
    """User and system time of a process: what a request costs, whoever else is using the machine."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _run(seconds: float, settings: Settings, servers: dict[str, tuple[int, int]]) -> None:
    api_port, _ = servers["ingest"]
    subscription_id = await _subscribe(api_port)
    rates: dict[str, list[float]] = {"bare": [], "ingest": []}
    costs_us: dict[str, list[float]] = {"bare": [], "ingest": []}
    for _ in range(_PAIRS):  # alternating: the machine's mood falls on both
        for name, (port, pid) in servers.items():
            load = await _measure(port, pid, _request(port, subscription_id), seconds)
            rates[name].append(load.statuses.get(b"202", 0) / seconds)
            middle_ms = statistics.median(load.latencies_s) * 1000
            cpu_us = load.cpu_s / len(load.latencies_s) * 1e6
            costs_us[name].append(cpu_us)
            say(
                f"{name:>6}: {rates[name][-1]:6.0f} req/s  p50 {middle_ms:5.1f} ms {cpu_us:4.0f} us CPU {load.statuses}"
            )
    shares = [ingest / bare for bare, ingest in zip(rates["bare"], rates["ingest"], strict=True)]
    middle_us = {name: statistics.median(costs) for name, costs in costs_us.items()}
    for name in servers:
        say(f"{name:>6}: median {statistics.median(rates[name]):6.0f} req/s {middle_us[name]:4.0f} us CPU")
    say(f"median of {_PAIRS} pairs: ingest makes {statistics.median(shares):.0%} of the bare route's req/s")
    say(f"CPU a request, bare to ingest: {middle_us['bare'] / middle_us['ingest']:.0%}")
    await delete_topics(settings)


def main() -> None:
    """Measure on the stack that is there, or on one that ends with us."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    with find_stack() as stack:
        _compare(stack, seconds)


def _compare(stack: Stack, seconds: float) -> None:
    """Start both servers, measure, stop both."""
    name = f"bench{secrets.token_hex(4)}"
    settings = Settings(
        _env_file=None,
        topic_prefix=f"{name}.",
        kafka_bootstrap_servers=stack.bootstrap_servers,
        redis_url=stack.redis_url,
        database_url=urlsplit(stack.database_url)._replace(path=f"/{name}").geturl(),
        encryption_key=Fernet.generate_key().decode(),
    )
    migrate(settings.database_url.get_secret_value())
    asyncio.run(ensure_topics(settings))
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2)]
    spawn = multiprocessing.get_context("fork")
    servers = [
        spawn.Process(target=_serve_bare, args=(listeners[0],)),
        spawn.Process(target=_serve_api, args=(listeners[1], settings)),
    ]
    for server in servers:
        server.start()
    try:
        started = [(one.getsockname()[1], server.pid or 0) for one, server in zip(listeners, servers, strict=True)]
        uvloop.run(_run(seconds, settings, dict(zip(("bare", "ingest"), started, strict=True))))
    finally:
        for server in servers:
            server.kill()
            server.join()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
