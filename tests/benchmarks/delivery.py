"""What a delivery costs, beside what it could cost: `make bench`, or `python -m tests.benchmarks.delivery`.

1 KiB payloads from a topic that is filled before, a receiver on loopback, a record of `attempts` for each delivery.
The stream worker as it is shipped; two of them; and the contenders of `contenders.py`. One after the other, in five
rounds; a ratio is that of one round, and what counts is the median of the rounds. The rate is by the receiver's
arrivals, without the first ones; CPU is the process's own, user and system, in the same span.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from shared.kafka import Producer
from tests.benchmarks.loopback import Loopback
from tests.benchmarks.pipeline import WORKER, Pipeline, Running, machine, pipeline
from tests.benchmarks.report import Report, Verdict, at_least, at_most

#: A stock agent takes so much longer that it is measured over fewer.
_FAUST_SHARE = 4
_POLL_S = 0.02
_SILENCE_S = 60.0
_FILL_AT_ONCE = 1000


class Figures(NamedTuple):
    """Of one run."""

    rate: float
    cpu_us: float
    rss_mib: float
    #: Deliveries that had to wait elsewhere: no endpoint here is slow, so there should be none.
    put_off: int = 0


Rounds = dict[str, list[Figures]]


class Bench:
    """One pipeline, one receiver, and how much is measured."""

    def __init__(self, line: Pipeline, receiver: Loopback, given: argparse.Namespace) -> None:
        self._line, self._receiver = line, receiver
        self._warm, self._count, self._size_bytes = given.warm, given.count, given.size
        #: As many as the worker would have under way.
        settings = line.settings
        self._in_flight = min(settings.max_in_flight, settings.max_in_flight_per_endpoint * receiver.endpoints)
        self._run = 0

    async def fill(self, for_two: bool) -> None:
        """Enough for two workers, one of which begins before the other."""
        producer = Producer(self._line.settings)
        await producer.start()
        count = (self._warm + self._count) * (3 if for_two else 1)
        for start in range(0, count, _FILL_AT_ONCE):
            some = range(start, min(start + _FILL_AT_ONCE, count))
            endpoints = self._receiver.endpoints
            await producer.send_all([self._line.delivery(n % endpoints, n, self._size_bytes) for n in some])
        await producer.stop()

    async def bare(self) -> Figures:
        """With what is quickest: its own best number at once."""
        total = self._warm + self._count
        return await self._contender("bare", self._count, "--count", str(total), in_flight=min(self._in_flight, 100))

    async def raw(self) -> Figures:
        return await self._contender("raw", self._count, in_flight=self._in_flight)

    async def raw_lean(self) -> Figures:
        return await self._contender("raw-lean", self._count, in_flight=self._in_flight)

    async def kafka_alone(self) -> Figures:
        """Without a request nothing arrives: it is counted in `attempts`."""
        loop = asyncio.get_running_loop()
        process = self._start("kafka", in_flight=self._in_flight)
        async with self._line.counting(self._line.settings.topics.attempts) as written:
            warm = await written() + self._warm
            try:
                first, first_s = await self._arrived(warm, [process], written), loop.time()
                cpu_s = process.cpu_s()
                last, last_s = await self._arrived(warm + self._count, [process], written), loop.time()
                cpu_s = process.cpu_s() - cpu_s
                rss_mib = process.rss_mib()
            finally:
                await process.stop()
        return Figures((last - first) / (last_s - first_s), cpu_s / (last - first) * 1e6, rss_mib)

    async def faust(self) -> Figures:
        return await self._contender("faust", self._count // _FAUST_SHARE, in_flight=min(self._in_flight, 100))

    async def one_worker(self) -> Figures:
        await self._rewind()
        return await self._measure([self._line.start(WORKER)], self._count)

    async def two_workers(self) -> Figures:
        """From when both have their partitions."""
        await self._rewind()
        workers = [self._line.start(WORKER) for _ in range(2)]
        await asyncio.gather(*(worker.ready() for worker in workers))
        await asyncio.sleep(1.0)  # a rebalance may still be on its way
        await asyncio.gather(*(worker.ready() for worker in workers))
        return await self._measure(workers, self._count, warmed=True)

    async def _rewind(self) -> None:
        topics = self._line.settings.topics
        await self._line.send_group_to(topics.group("delivery-stream"), [topics.deliveries], end=False)
        await self._receiver.ask("clear")

    async def _contender(self, name: str, count: int, *options: str, in_flight: int) -> Figures:
        await self._receiver.ask("clear")
        return await self._measure([self._start(name, *options, in_flight=in_flight)], count)

    def _start(self, name: str, *options: str, in_flight: int) -> Running:
        self._run += 1
        group = f"{self._line.settings.topic_prefix}{name}-{self._run}"
        told = ("--subscriptions", str(self._line.targets), "--group", group, "--in-flight", str(in_flight))
        return self._line.start(("tests.benchmarks.contenders", name, *told, *options))

    async def _measure(self, processes: Sequence[Running], count: int, *, warmed: bool = False) -> Figures:
        """Between two moments after the warm-up, of the same ones."""
        put_off = await self._line.records(*self._line.tiers)
        try:
            warm = await self._receiver.count() if warmed else self._warm
            first = await self._arrived(warm, processes, self._receiver.count)
            cpu_s = sum(one.cpu_s() for one in processes)
            last = await self._arrived(warm + count, processes, self._receiver.count)
            cpu_s = sum(one.cpu_s() for one in processes) - cpu_s
            rss_mib = max(one.rss_mib() for one in processes)
        finally:
            await asyncio.gather(*(one.stop() for one in processes))
        rate = await self._receiver.ask("rate", first, last - 1)
        if repeated := await self._receiver.ask("repeated"):
            print(f"  {repeated} arrived twice", flush=True)
        put_off = await self._line.records(*self._line.tiers) - put_off
        return Figures(rate, cpu_s / (last - first) * 1e6, rss_mib, put_off)

    async def _arrived(self, wanted: int, processes: Sequence[Running], counted: Callable[[], Awaitable[int]]) -> int:
        """How many there are, once there are that many."""
        loop = asyncio.get_running_loop()
        seen, progress_s = 0, loop.time()
        while (count := await counted()) < wanted:
            if count != seen:
                seen, progress_s = count, loop.time()
            if loop.time() - progress_s > _SILENCE_S or any(one.ended for one in processes):
                put_off = await self._line.records(*self._line.tiers)
                raise RuntimeError(
                    f"{count} of {wanted} arrived, {put_off} were ever put off, and no more\n{self._line.tail()}"
                )
            await asyncio.sleep(_POLL_S)
        return count


async def run(line: Pipeline, given: argparse.Namespace) -> bool:
    """Whether every limit holds."""
    report = Report("delivery", given.write)
    async with Loopback(given.endpoints) as receiver:
        await line.set_up(receiver)
        bench = Bench(line, receiver, given)
        candidates = {
            "bare loop": bench.bare,
            "worker": bench.one_worker,
            "raw aiokafka": bench.raw,
            "raw, lean": bench.raw_lean,
            "Kafka alone": bench.kafka_alone,
            "stock Faust": bench.faust,
            "two workers": bench.two_workers,
        }
        chosen = {name: candidates[name] for name in given.only or candidates}
        await bench.fill(for_two="two workers" in chosen)
        report.say(
            f"{given.count} deliveries of {given.size} B after {given.warm}, {given.endpoints} endpoints; {machine()}"
        )
        rounds: Rounds = {name: [] for name in chosen}
        for number in range(1, given.rounds + 1):
            for name, measure in chosen.items():
                rounds[name].append(await measure())
                report.say(f"{number:6} {name:<12} {_cells(rounds[name][-1])}  load {os.getloadavg()[0]:.1f}")
        for name, found in rounds.items():
            rates, costs, sizes, _ = zip(*found, strict=True)
            middle = Figures(statistics.median(rates), statistics.median(costs), statistics.median(sizes))
            report.say(f"median {name:<12} {_cells(middle)}")
        if (times := _ratio(rounds, "worker", "raw, lean", "cpu_us")) is not None:
            report.say(f"CPU a delivery, of raw aiokafka's with our producer: {times:.2f}x (no limit)")
        if {"bare loop", "Kafka alone"} <= rounds.keys():
            report.say(f"{_best_share(rounds):.2f} of the bare loop's rate is left by Kafka alone (no limit)")
        return report.conclude(_verdicts(rounds))


def _ratio(rounds: Rounds, one: str, other: str, what: str) -> float | None:
    """The median of the rounds; None when one of them was not measured."""
    if one not in rounds or other not in rounds:
        return None
    pairs = zip(rounds[one], rounds[other], strict=True)
    return statistics.median([float(getattr(a, what) / getattr(b, what)) for a, b in pairs])


def _best_share(rounds: Rounds) -> float:
    """Of the bare loop's rate, for who delivers from Kafka and does nothing that costs anything besides: one core."""
    pairs = zip(rounds["bare loop"], rounds["Kafka alone"], strict=True)
    return statistics.median([bare.cpu_us / (bare.cpu_us + kafka.cpu_us) for bare, kafka in pairs])


def _verdicts(rounds: Rounds) -> list[Verdict]:
    """The limits, as far as both sides were measured."""
    found: list[Verdict] = []
    if (share := _ratio(rounds, "worker", "bare loop", "rate")) is not None:
        found.append(at_least("rate, of the bare loop's", share, 0.55, ""))
    if (times := _ratio(rounds, "worker", "stock Faust", "rate")) is not None:
        found.append(at_least("rate, of a stock Faust agent's", times, 4.0, "x"))
    if (times := _ratio(rounds, "worker", "raw aiokafka", "cpu_us")) is not None:
        found.append(at_most("CPU a delivery, of raw aiokafka's", times, 1.3, "x"))
    if (times := _ratio(rounds, "two workers", "worker", "cpu_us")) is not None:
        found.append(at_most("CPU a delivery with two workers, of one's", times, 1.15, "x"))
    if (times := _ratio(rounds, "two workers", "worker", "rate")) is not None:
        enough = (os.cpu_count() or 1) >= 4
        found.append(at_least("rate of two workers, of one's", times, 1.7, "x", counts=enough, why="needs four cores"))
    if "worker" in rounds:
        found.append(at_most("deliveries put off by one worker", sum(run.put_off for run in rounds["worker"]), 0, ""))
    return found


def _cells(figures: Figures) -> str:
    put_off = f"  {figures.put_off} put off" if figures.put_off else ""
    return f"{figures.rate:7.0f}/s {figures.cpu_us:6.1f} us CPU {figures.rss_mib:5.0f} MiB{put_off}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoints", type=int, default=200)
    parser.add_argument("--count", type=int, default=60_000, help="deliveries measured in a run")
    parser.add_argument("--warm", type=int, default=10_000, help="deliveries before those")
    parser.add_argument("--size", type=int, default=1024, help="bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="some of the candidates")
    parser.add_argument("--write", type=Path, help="a folder for the report")
    given = parser.parse_args()
    with pipeline() as line:
        return 0 if uvloop.run(run(line, given)) else 1


if __name__ == "__main__":
    sys.exit(main())
