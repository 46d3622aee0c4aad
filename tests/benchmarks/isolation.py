"""What bad endpoints cost the others: `make bench`, or `python -m tests.benchmarks.isolation`.

From the record's way into `deliveries` to the healthy endpoint, the 99th percentile, with the bad endpoints and without
them: then the same endpoints answer at once, so that both have the same rate. Stream worker and retry scheduler as they
are shipped, started anew for each run; runs with and without take turns, and what counts is the median of the pairs.

Half of 100, 250 and 500 events a second go to an endpoint that takes 5 s, the others to ten that do not. And a tenth of
200 endpoints never answer, at full load: so much of what one worker makes here when nobody is in its way, measured
first, as leaves the machine room for the producer (--loads). At half of it two cores are full, and the percentile is
that of a queue: it differs by a factor of two from run to run, without bad endpoints too.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from shared.kafka import Producer
from tests.benchmarks.loopback import Loopback
from tests.benchmarks.pipeline import KAFKA_MEMORY, SCHEDULER, WORKER, Pipeline, machine, pipeline
from tests.benchmarks.report import Report, Verdict

#: A burst of so many; a timer is not finer.
_TICK_S = 0.01
_SETTLE_S = 1.0
_FULL_SPEED_COUNT = 16_000
_LIMIT_TIMES, _LIMIT_MS = 1.2, 5.0


class Traffic(NamedTuple):
    """Who gets how much, and who is bad."""

    name: str
    rate: float
    #: Endpoints 0 to ``bad`` - 1 are bad and get ``bad_share`` of the rate, those up to ``endpoints`` the rest.
    bad: int
    endpoints: int
    bad_share: float
    late_s: float


class Bench:
    """One pipeline and one receiver."""

    def __init__(self, line: Pipeline, receiver: Loopback, given: argparse.Namespace) -> None:
        self._line, self._receiver = line, receiver
        self._seconds, self._warm_s = given.seconds, given.warm
        self._producer = Producer(line.settings)

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def full_speed(self, endpoints: int) -> float:
        """Deliveries a second of one worker, from a topic that was filled before."""
        await self._forget()
        for start in range(0, _FULL_SPEED_COUNT, 1000):
            records = [self._line.delivery(n % endpoints, n, 1024) for n in range(start, start + 1000)]
            await self._producer.send_all(records)
        worker = self._line.start(WORKER)
        try:
            async with asyncio.timeout(120):
                while await self._receiver.count() < _FULL_SPEED_COUNT:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.05)
        finally:
            await worker.stop()
        return float(await self._receiver.ask("rate", _FULL_SPEED_COUNT // 4, _FULL_SPEED_COUNT - 1))

    async def run(self, traffic: Traffic, *, bad: bool) -> dict[str, float]:
        """Latencies of the healthy in milliseconds, and how many they are."""
        await self._forget()
        await self._receiver.ask("make_late", traffic.bad if bad else 0, traffic.late_s)
        processes = [self._line.start(WORKER), self._line.start(SCHEDULER)]
        put_off = await self._line.records(*self._line.tiers)
        try:
            await asyncio.gather(*(one.ready() for one in processes))
            began_ns = time.monotonic_ns()
            await self._produce(traffic, self._warm_s + self._seconds)
            await asyncio.sleep(_SETTLE_S)
            since_ns = began_ns + int(self._warm_s * 1e9)
            found: dict[str, float] = await self._receiver.ask("latency_ms", since_ns, time.monotonic_ns(), traffic.bad)
            found["put_off"] = await self._line.records(*self._line.tiers) - put_off
            found["worker_s"], found["scheduler_s"] = (one.cpu_s() for one in processes)
        finally:
            await asyncio.gather(*(one.stop() for one in processes))
        return found

    async def _forget(self) -> None:
        """What is left of the run before is nobody's any more."""
        topics, line = self._line.settings.topics, self._line
        await line.send_group_to(topics.group("delivery-stream"), [topics.deliveries], end=True)
        await line.send_group_to(topics.group("retry-scheduler"), line.tiers, end=True)
        await self._receiver.ask("clear")

    async def _produce(self, traffic: Traffic, seconds: float) -> None:
        """At this rate, stamped with the time at which each was due."""
        loop, sent, sends = asyncio.get_running_loop(), 0, set[asyncio.Task[object]]()
        began_s, good = loop.time(), traffic.endpoints - traffic.bad
        owed, turn = 0.0, [0, 0]
        while (passed_s := loop.time() - began_s) < seconds:
            records = []
            while sent < passed_s * traffic.rate:
                owed += traffic.bad_share
                is_bad = owed >= 1.0
                owed -= is_bad
                turn[is_bad] += 1
                endpoint = turn[1] % traffic.bad if is_bad else traffic.bad + turn[0] % good
                records.append(self._line.delivery(endpoint, time.monotonic_ns(), 1024))
                sent += 1
            if records:
                task: asyncio.Task[object] = asyncio.create_task(self._producer.send_all(records))
                sends.add(task)
                task.add_done_callback(sends.discard)
            await asyncio.sleep(_TICK_S)
        await asyncio.gather(*sends)


async def run(line: Pipeline, given: argparse.Namespace) -> bool:
    """Whether every limit holds."""
    report = Report("isolation", given.write)
    async with Loopback(200) as receiver:
        await line.set_up(receiver)
        bench = Bench(line, receiver, given)
        await bench.start()
        report.say(f"{given.seconds:g} s after {given.warm:g} s, {given.pairs} pairs; {machine()}")
        cases = [Traffic(f"half of {rate:g}/s to a 5 s endpoint", rate, 1, 11, 0.5, 5.0) for rate in given.rates]
        if given.loads:
            full = await bench.full_speed(200)
            report.say(f"full speed {full:.0f}/s")
            for load in given.loads:
                name = f"a tenth of 200 endpoints dead at {load:.0%} of it, {full * load:.0f}/s"
                cases.append(Traffic(name, full * load, 20, 200, 0.1, math.inf))
        verdicts = [await _pairs(bench, traffic, given.pairs, report) for traffic in cases]
        await bench.stop()
    return report.conclude(verdicts)


async def _pairs(bench: Bench, traffic: Traffic, pairs: int, report: Report) -> Verdict:
    report.say(traffic.name)
    found: list[tuple[float, float]] = []
    for number in range(1, pairs + 1):
        without, with_bad = await bench.run(traffic, bad=False), await bench.run(traffic, bad=True)
        found.append((without["p99"], with_bad["p99"]))
        cells = "   ".join(
            f"{name} p50 {one['p50']:7.1f} p99 {one['p99']:7.1f} max {one['max']:7.1f} ms ({one['count']:.0f}, "
            f"{one['put_off']:.0f} put off, {one['worker_s']:.1f} and {one['scheduler_s']:.1f} s CPU)"
            for name, one in (("without", without), ("with", with_bad))
        )
        report.say(f"{number:4} {cells}  load {os.getloadavg()[0]:.1f}")
    without_ms, with_ms = (statistics.median(one) for one in zip(*found, strict=True))
    over = statistics.median([b - max(_LIMIT_TIMES * a, a + _LIMIT_MS) for a, b in found])
    limit = f"<= {_LIMIT_TIMES}x or + {_LIMIT_MS:g} ms, in the median pair"
    return Verdict(f"{traffic.name}, p99", f"{without_ms:.1f} -> {with_ms:.1f} ms", limit, over <= 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rates", type=float, nargs="*", default=[100.0, 250.0, 500.0], help="events a second")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.4, 0.5], help="of full speed, with dead endpoints")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured in a run")
    parser.add_argument("--warm", type=float, default=5.0, help="seconds before those")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a folder for the report")
    given = parser.parse_args()
    # The other one stops the broker for 60 to 80 ms every 16 to 25 s, sooner the more it is sent: half of what a 99th
    # percentile has room for.
    with pipeline(kafka_memory=KAFKA_MEMORY._replace(collector="Z")) as line:
        return 0 if uvloop.run(run(line, given)) else 1


if __name__ == "__main__":
    sys.exit(main())
