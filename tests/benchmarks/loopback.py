"""The receiver of the delivery benchmarks: a process of its own, one loopback address for each endpoint.

It answers at once; the first few endpoints can be told to answer late, or never, and others to fail. Every arrival is
noted with its time and its stamp, the number a payload begins with. CLOCK_MONOTONIC is one clock for all processes of a
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
from array import array
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import Any, cast

import httptools
import uvloop

from deploy.program import free_port

STAMP_DIGITS = 20
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nserver: sink\r\ncontent-type: text/plain\r\n\r\nok"


def payload(stamp: int, size_bytes: int) -> bytes:
    """A body that begins with its stamp."""
    return b"%020d" % stamp + b"x" * (size_bytes - STAMP_DIGITS)


def address(endpoint: int) -> str:
    """Different hosts, as endpoints are: each has connections of its own."""
    return f"127.0.{1 + endpoint // 250}.{1 + endpoint % 250}"


class Loopback:
    """``async with Loopback(200) as receiver``: the process, and what it has seen."""

    def __init__(self, endpoints: int) -> None:
        self.endpoints = endpoints
        self.port = free_port()
        self._asking = asyncio.Lock()
        self._process: Process

    async def __aenter__(self) -> Loopback:
        command = (sys.executable, "-m", __name__, str(self.endpoints), str(self.port))
        self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        await self.ask("clear")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()

    def url(self, endpoint: int) -> str:
        return f"http://{address(endpoint)}:{self.port}/hook"

    async def ask(self, command: str, *arguments: float) -> Any:
        """One line there, one line of JSON back. The commands are the methods of `_Seen`."""
        async with self._asking:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(" ".join([command, *map(str, arguments)]).encode() + b"\n")
            return json.loads(await self._process.stdout.readline())

    async def count(self) -> int:
        return int(await self.ask("count"))


class _Seen:
    """What has arrived. Each method that is no event of a connection answers a command."""

    def __init__(self) -> None:
        self.late, self.late_s = 0, 0.0
        self._failing = range(0)
        self.clear()

    def clear(self) -> None:
        self._at_ns = array("q")
        self._stamps = array("q")
        self._endpoints = array("h")

    def arrived(self, endpoint: int, stamp: int) -> float:
        """How many seconds its answer takes."""
        self._at_ns.append(time.monotonic_ns())
        self._stamps.append(stamp)
        self._endpoints.append(endpoint)
        return self.late_s if endpoint < self.late else 0.0

    def make_late(self, endpoints: float, late_s: float) -> None:
        """The first so many answer after ``late_s``; infinite: never."""
        self.late, self.late_s = int(endpoints), late_s

    def make_fail(self, first: float, endpoints: float) -> None:
        """So many endpoints from this one on answer 500."""
        self._failing = range(int(first), int(first + endpoints))

    def fails(self, endpoint: int) -> bool:
        return endpoint in self._failing

    def count(self) -> int:
        return len(self._at_ns)

    def counts(self, of_all: float) -> tuple[int, int]:
        """Arrivals at endpoints from ``of_all`` on, and how many stamps those had."""
        stamps = [stamp for endpoint, stamp in zip(self._endpoints, self._stamps, strict=True) if endpoint >= of_all]
        return len(stamps), len(set(stamps))

    def rate(self, first: float, last: float) -> float:
        """Arrivals a second, from one arrival to another, both counted from 0."""
        return (last - first) / (self._at_ns[int(last)] - self._at_ns[int(first)]) * 1e9

    def repeated(self) -> int:
        """Stamps that came more than once."""
        return len(self._stamps) - len(set(self._stamps))

    def latency_ms(self, since_ns: float, until_ns: float, of_all: float) -> dict[str, float]:
        """From stamp to arrival, of what was stamped within these times, at endpoints from ``of_all`` on."""
        rows = zip(self._endpoints, self._stamps, self._at_ns, strict=True)
        took_ms = sorted((at - n) / 1e6 for e, n, at in rows if e >= of_all and since_ns <= n < until_ns)
        if not took_ms:
            return {"count": 0, "p50": math.inf, "p99": math.inf, "max": math.inf}
        p99 = took_ms[math.ceil(len(took_ms) * 0.99) - 1]
        return {"count": len(took_ms), "p50": statistics.median(took_ms), "p99": p99, "max": took_ms[-1]}


class _Connection(asyncio.Protocol):
    """Lean, so that it is not what is measured."""

    def __init__(self, seen: _Seen, endpoint: int) -> None:
        self._seen, self._endpoint = seen, endpoint
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if len(self._body) < STAMP_DIGITS:
            self._body += body

    def on_message_complete(self) -> None:
        late_s = self._seen.arrived(self._endpoint, int(self._body[:STAMP_DIGITS]))
        self._body = b""
        if self._seen.fails(self._endpoint):
            self._transport.write(FAILURE)
        elif not late_s:
            self._transport.write(ANSWER)
        elif late_s < math.inf:
            asyncio.get_running_loop().call_later(late_s, self._answer_late)

    def _answer_late(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


async def _serve(endpoints: int, port: int) -> None:
    loop, seen = asyncio.get_running_loop(), _Seen()
    for number in range(endpoints):
        await loop.create_server(lambda n=number: _Connection(seen, n), address(number), port, backlog=1024)  # type: ignore[misc]
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode():  # until the benchmark ends
        command, *arguments = line.split()
        print(json.dumps(getattr(seen, command)(*map(float, arguments))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoints", type=int)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    uvloop.run(_serve(given.endpoints, given.port))
