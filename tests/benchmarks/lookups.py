"""What a lookup costs, and what a hostile answer costs the others: ``python -m tests.benchmarks.lookups``.

Ours and dnspython against one scripted name server in a process of its own. CPU of the asking process a lookup (A and
AAAA), 50 at a time; then the longest time that the event loop was away while answers of 3,900 addresses came in.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import dns.asyncresolver
import dns.resolver
import uvloop

from delivery_stream.name_servers import NameServers
from tests.name_server import NameServer, answer_but_id, says

LOOKUPS = 2000
AT_ONCE = 50
HUGE = 5
ROUNDS = 5

LookUp = Callable[[str], Awaitable[object]]


def serve(ready: Connection) -> None:
    async def serving() -> None:
        async with NameServer() as server:
            for number in range(LOOKUPS):
                server.script(f"h{number}.example", says("192.0.2.1", "2001:db8::1"))
            huge = says(*(f"10.1.{n // 250}.{n % 250}" for n in range(3900)))
            for number in range(HUGE):
                server.script(f"huge{number}.example", huge)
                for transport in ("udp", "tcp"):
                    answer_but_id(f"huge{number}.example", "A", huge, transport)  # not while it is waited for
            ready.send(server.port)
            await asyncio.Event().wait()

    asyncio.run(serving())


async def measure(look_up: LookUp) -> tuple[float, float]:
    """CPU µs a lookup, and ms that the loop was away at most while huge answers came."""
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with at_once:
            await look_up(f"h{number}.example")

    await one(0)
    cpu_s = time.process_time()
    await asyncio.gather(*(one(number) for number in range(LOOKUPS)))
    cpu_s = time.process_time() - cpu_s
    away_s = 0.0
    looking_up = asyncio.gather(*(look_up(f"huge{number}.example") for number in range(HUGE)), return_exceptions=True)
    while not looking_up.done():
        asked_s = time.perf_counter()
        await asyncio.sleep(0.001)
        away_s = max(away_s, time.perf_counter() - asked_s - 0.001)
    return cpu_s / LOOKUPS * 1e6, away_s * 1e3


async def ours(port: int) -> tuple[float, float]:
    name_servers = NameServers([f"127.0.0.1:{port}"])
    try:
        return await measure(name_servers)
    finally:
        await name_servers.close()


async def dnspython(port: int) -> tuple[float, float]:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port

    async def look_up(host: str) -> object:
        return await asyncio.gather(*(resolver.resolve(host, kind, raise_on_no_answer=False) for kind in ("A", "AAAA")))

    return await measure(look_up)


def main() -> None:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    port: int = here.recv()
    rounds = [(uvloop.run(ours(port)), uvloop.run(dnspython(port))) for _ in range(ROUNDS)]
    server.terminate()
    for name, measured in zip(
        ("c-ares, in its thread", "dnspython, on the loop"), zip(*rounds, strict=True), strict=True
    ):
        cpu_us, away_ms = (statistics.median(values) for values in zip(*measured, strict=True))
        print(f"{name:<24} {cpu_us:6.0f} µs CPU a lookup   loop away at most {away_ms:6.1f} ms")


if __name__ == "__main__":
    main()
