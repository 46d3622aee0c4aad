"""What one POST costs: our sender beside a bare protocol loop (the floor) and aiohttp, in one run on one loopback sink.

    python tests/benchmarks/sender.py [--requests 20000] [--in-flight 100] [--body 1024] [--rounds 3]

The sink is a second process. CPU is this process's, user and system; compare within one run, on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import aiohttp
import httptools
import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from delivery_stream.decision import Answered  # noqa: E402
from delivery_stream.sender import Sender  # noqa: E402

HEADERS = [
    ("content-type", "application/json"),
    ("user-agent", "Hooklog/0.1.0"),
    ("webhook-id", "msg_0190c2b4e5f67a8b9c0d1e2f3a4b5c6d"),
    ("webhook-timestamp", "1700000000"),
    ("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
    ("webhook-attempt", "1"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nserver: sink\r\ncontent-type: text/plain\r\n\r\nok"

Post = Callable[[bytes], Awaitable[int]]


class SinkConnection(asyncio.Protocol):
    """Answers each request as soon as it is whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)


async def sink() -> None:
    server = await asyncio.get_running_loop().create_server(SinkConnection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the benchmark ends


class BareConnection(asyncio.Protocol):
    """Writes, parses, answers: no pool, no deadline, no bounds, no checks."""

    waiter: asyncio.Future[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.waiter.set_result(self._parser.get_status_code())


async def bare(port: int, requests: int, in_flight: int, body: bytes) -> None:
    head = f"POST /hook HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    request = (head + "".join(f"{n}: {v}\r\n" for n, v in HEADERS) + "\r\n").encode() + body
    loop = asyncio.get_running_loop()

    async def one_after_the_other(count: int) -> None:
        transport, connection = await loop.create_connection(BareConnection, "127.0.0.1", port)
        for _ in range(count):
            connection.waiter = loop.create_future()
            transport.write(request)
            assert await connection.waiter == 200
        transport.abort()

    await asyncio.gather(*(one_after_the_other(requests // in_flight) for _ in range(in_flight)))


async def ours(port: int, requests: int, in_flight: int, body: bytes) -> None:
    sender = Sender([ip_network("127.0.0.0/8")])
    url = f"http://127.0.0.1:{port}/hook"

    async def one_after_the_other(count: int) -> None:
        for _ in range(count):
            outcome = await sender.post(url, HEADERS, body, 10.0)
            assert isinstance(outcome, Answered), outcome
            assert outcome.status == 200

    await asyncio.gather(*(one_after_the_other(requests // in_flight) for _ in range(in_flight)))
    await sender.close()


async def with_aiohttp(port: int, requests: int, in_flight: int, body: bytes) -> None:
    url = f"http://127.0.0.1:{port}/hook"
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=10.0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        async def one_after_the_other(count: int) -> None:
            for _ in range(count):
                async with session.post(url, data=body, headers=HEADERS, allow_redirects=False) as answer:
                    await answer.read()
                    assert answer.status == 200

        await asyncio.gather(*(one_after_the_other(requests // in_flight) for _ in range(in_flight)))


CANDIDATES = {"bare protocol loop": bare, "our sender": ours, "aiohttp": with_aiohttp}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--body", type=int, default=1024, help="bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*CANDIDATES], help="one candidate")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sink:
        uvloop.run(sink())
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for name, candidate in CANDIDATES.items():
            if arguments.only in (None, name):
                rounds = [_measure(candidate, port, arguments) for _ in range(arguments.rounds)]
                cells = "   ".join(f"{cpu_us:6.1f} us CPU {rate:8.0f}/s" for cpu_us, rate in rounds)
                print(f"{name:<20} {cells}", flush=True)
        process.communicate("")


def _measure(
    candidate: Callable[[int, int, int, bytes], Awaitable[None]], port: int, arguments: argparse.Namespace
) -> tuple[float, float]:
    """CPU microseconds per request, requests per second."""

    async def run() -> tuple[float, float]:
        body = b"x" * arguments.body
        await candidate(port, arguments.in_flight * 10, arguments.in_flight, body)  # warm
        cpu_s, wall_s = time.process_time(), time.monotonic()
        await candidate(port, arguments.requests, arguments.in_flight, body)
        cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
        return cpu_s / arguments.requests * 1e6, arguments.requests / wall_s

    return uvloop.run(run())


if __name__ == "__main__":
    main()
