"""What time does to the processes: `make soak`, or `python -m tests.benchmarks.soak --minutes 30`.

API, stream worker, retry scheduler and attempt sink as they are shipped, one each, at half of what they make together
when nobody is in their way, which is measured first: events go in over HTTP, and the clock stops when the last one is
in the attempt log. They are so many (--fill) that the worker's memory of what it has finished is full afterwards. Then
5 % of 200 endpoints fail for ever and 2 % take two seconds.

Each process's size, descriptors and CPU, and how far each group is behind, every ten seconds. Memory is the slope of a
line through the last two thirds; lag and descriptors are the last third's median against the first's. The scheduler's
lag is what is due and still there: what waits for an endpoint that fails for ever becomes more all the time, and is
told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from delivery_stream.repeats import REMEMBERED_MAX
from shared.broker import client_options
from shared.settings import Settings
from tests.benchmarks.loopback import STAMP_DIGITS, Loopback
from tests.benchmarks.pipeline import SCHEDULER, WORKER, Pipeline, Running, machine, pipeline
from tests.benchmarks.report import Report, Verdict
from tests.group_commits import unfinished

_PROCESSES = {
    "api": ("ingest_api",),
    "delivery-stream": WORKER,
    "retry-scheduler": SCHEDULER,
    "attempt-sink": ("delivery_stream.attempt_sink",),
}
_STREAM, _SCHEDULER, _SINK = list(_PROCESSES)[1:]
_ENDPOINTS = 200
#: Endpoints 0 to 3 are slow, 4 to 13 fail, the others are healthy.
_SLOW, _FAILING = 4, 10
_BAD = _SLOW + _FAILING
_SLOW_S = 2.0
_SIZE_BYTES = 1024
_POSTERS = 32
#: Posts without an answer; when there are so many, the pace is what the API makes.
_OUTSTANDING_MAX = 400
_TICK_S = 0.02
_SETTLES_WITHIN_S = 120.0
#: Limits count from here on: before, caches fill up.
_COUNTS_FROM_MINUTES = 20.0
_RSS_PERCENT_PER_10_MINUTES = 3.0
_DESCRIPTORS = 5.0


class Size(NamedTuple):
    """One process at one time."""

    rss_mib: float
    descriptors: int
    cpu_s: float


class Sample(NamedTuple):
    """Everything at one time, seconds since the soak began."""

    at_s: float
    sizes: dict[str, Size]
    #: Records that are there and could be done, by group.
    lags: dict[str, int]
    #: Records that wait in tiers for their time.
    waiting: int


class Soak:
    """One pipeline, one receiver, all processes."""

    def __init__(self, line: Pipeline, receiver: Loopback, given: argparse.Namespace, report: Report) -> None:
        self._line, self._receiver, self._given, self._report = line, receiver, given, report
        self._running: dict[str, Running] = {}
        self._session: aiohttp.ClientSession
        self._next = 0
        self.healthy_accepted = self.accepted = self.unanswered = 0

    async def __aenter__(self) -> Soak:
        self._running = {name: self._line.start(module) for name, module in _PROCESSES.items()}
        await asyncio.gather(*(one.ready() for one in self._running.values()))
        connector = aiohttp.TCPConnector(limit=_OUTSTANDING_MAX)
        timeout = aiohttp.ClientTimeout(total=15)
        self._session = aiohttp.ClientSession(self._running["api"].url, connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await asyncio.gather(*(one.stop() for one in self._running.values()))

    async def full_speed(self) -> float:
        """Events a second, from the first post until the last one is in the attempt log; all endpoints are healthy."""
        began_s, before = time.monotonic(), self.accepted
        left = iter(range(self._given.fill))

        async def poster() -> None:
            for _ in left:
                await self._post()

        await asyncio.gather(*(poster() for _ in range(_POSTERS)))
        await self._until_done()
        return (self.accepted - before) / (time.monotonic() - began_s)

    async def run(self, rate: float) -> list[Sample]:
        """At this rate, with bad endpoints."""
        await self._receiver.ask("make_late", _SLOW, _SLOW_S)
        await self._receiver.ask("make_fail", _SLOW, _FAILING)
        began_s = time.monotonic()
        producing = asyncio.create_task(self._produce(rate, self._given.minutes * 60))
        samples: list[Sample] = []
        while not producing.done():
            await asyncio.wait([producing], timeout=self._given.every)
            samples.append(await self._sample(began_s))
            if len(samples) % 6 == 0:
                self._report.say(_line(samples[-1]))
        await producing
        await self._until_done()
        return samples

    async def counts(self) -> tuple[int, int]:
        """Arrivals at healthy endpoints, and of how many events."""
        arrivals, events = await self._receiver.ask("counts", _BAD)
        return arrivals, events

    async def _produce(self, rate: float, seconds: float) -> None:
        began_s, sent, posts = time.monotonic(), 0, set[asyncio.Task[None]]()
        while (passed_s := time.monotonic() - began_s) < seconds:
            while sent < passed_s * rate and len(posts) < _OUTSTANDING_MAX:
                task = asyncio.create_task(self._post())
                posts.add(task)
                task.add_done_callback(posts.discard)
                sent += 1
            if any(one.ended for one in self._running.values()):
                raise RuntimeError(f"a process has ended\n{self._line.tail()}")
            await asyncio.sleep(_TICK_S)
        await asyncio.gather(*posts)

    async def _post(self) -> None:
        number, self._next = self._next, self._next + 1
        endpoint = number % _ENDPOINTS
        path = f"/ingest/{self._line.subscriptions[endpoint]}"
        try:
            async with self._session.post(path, data=_payload(number)) as answer:
                accepted = answer.status == 202
        except (aiohttp.ClientError, TimeoutError):
            accepted = False
        self.accepted += accepted
        self.unanswered += not accepted
        self.healthy_accepted += accepted and endpoint >= _BAD

    async def _until_done(self) -> None:
        """The healthy endpoints have all that was accepted, and the log knows of it."""
        async with asyncio.timeout(_SETTLES_WITHIN_S):
            while True:
                lags = await _lags(self._line.settings)
                if not lags[_SINK] and (await self.counts())[1] >= self.healthy_accepted:
                    return
                await asyncio.sleep(0.1)

    async def _sample(self, began_s: float) -> Sample:
        sizes = {name: Size(one.rss_now_mib(), one.descriptors(), one.cpu_s()) for name, one in self._running.items()}
        lags = await _lags(self._line.settings)
        waiting = lags.pop("waiting")
        return Sample(time.monotonic() - began_s, sizes, lags, waiting)


def _payload(number: int) -> bytes:
    """Its stamp, and what cannot be packed much smaller than events can."""
    return b"%020d" % number + os.urandom((_SIZE_BYTES - STAMP_DIGITS) // 2).hex().encode()


async def _lags(settings: Settings) -> dict[str, int]:
    """By group; and how many wait in tiers."""
    topics, tiers_s = settings.topics, settings.schedule.tiers_s
    groups = {
        topics.group(_STREAM): (topics.deliveries, topics.events),
        topics.group(_SINK): (topics.attempts, topics.deliveries, topics.events),
        topics.group(_SCHEDULER): tuple(map(topics.tier, tiers_s)),
    }
    left = await unfinished(settings, groups)
    return {
        _STREAM: left.get(topics.group(_STREAM), 0),
        _SINK: left.get(topics.group(_SINK), 0),
        _SCHEDULER: await _overdue(settings),
        "waiting": left.get(topics.group(_SCHEDULER), 0),
    }


async def _overdue(settings: Settings) -> int:
    """Records of tiers whose time has come and that are still there."""
    now_ms = time.time_ns() // 1_000_000
    due_since_ms = {
        TopicPartition(settings.topics.tier(tier_s), number): now_ms - tier_s * 1000
        for tier_s in settings.schedule.tiers_s
        for number in range(settings.partitions)
    }
    admin, consumer = AIOKafkaAdminClient(**client_options(settings)), AIOKafkaConsumer(**client_options(settings))
    await admin.start()
    await consumer.start()
    try:
        committed = await admin.list_consumer_group_offsets(settings.topics.group(_SCHEDULER))
        later = await consumer.offsets_for_times(due_since_ms)
        ends = await consumer.end_offsets(list(due_since_ms))
        overdue = 0
        for place in due_since_ms:
            first_early = found.offset if (found := later[place]) else ends[place]
            done = max(committed[place].offset, 0) if place in committed else 0
            overdue += max(first_early - done, 0)
        return overdue
    finally:
        await consumer.stop()
        await admin.close()


async def run(line: Pipeline, given: argparse.Namespace) -> bool:
    """Whether every limit holds."""
    report = Report("soak", given.write)
    async with Loopback(_ENDPOINTS) as receiver:
        await line.set_up(receiver)
        report.say(f"{given.minutes:g} minutes, {_SIZE_BYTES} B to {_ENDPOINTS} endpoints; {machine()}")
        async with Soak(line, receiver, given, report) as soak:
            full = await soak.full_speed()
            rate = full * given.load
            report.say(
                f"full speed {full:.0f}/s from the post to the attempt log, of which {given.load:.0%}: {rate:.0f}/s"
            )
            report.say(f"{_FAILING} endpoints fail, {_SLOW} take {_SLOW_S:g} s")
            samples = await soak.run(rate)
            arrivals, events = await soak.counts()
        report.say(f"accepted {soak.accepted}, without an answer or refused {soak.unanswered}")
        verdicts = _verdicts(samples, rate, given.minutes, report)
    lost = max(soak.healthy_accepted - events, 0)
    verdicts.append(Verdict("lost at healthy endpoints", f"{lost} of {soak.healthy_accepted}", "0", lost == 0))
    repeated = arrivals - events
    verdicts.append(Verdict("repeated at healthy endpoints", f"{repeated}", "0", repeated == 0))
    return report.conclude(verdicts)


def _verdicts(samples: Sequence[Sample], rate: float, minutes: float, report: Report) -> list[Verdict]:
    unless = "" if minutes >= _COUNTS_FROM_MINUTES else f"needs {_COUNTS_FROM_MINUTES:g} minutes"
    third = max(len(samples) // 3, 1)
    first, last = samples[:third], samples[-third:]
    found = []

    def medians(of: Callable[[Sample], float]) -> tuple[float, float]:
        return statistics.median(map(of, first)), statistics.median(map(of, last))

    for name in _PROCESSES:
        sizes = [(one.at_s, one.sizes[name].rss_mib) for one in samples[third:]]
        per_hour = _slope(sizes) * 3600
        percent = per_hour / 6 / statistics.median([size for _, size in sizes]) * 100
        cpu = [_cores(some, name) for some in (first, last)]
        descriptors = medians(partial(_descriptors, name))
        at_end = samples[-1].sizes[name].rss_mib
        report.say(
            f"{name:<16} {samples[0].sizes[name].rss_mib:6.1f} -> {at_end:6.1f} MiB, {per_hour:+7.2f} MiB an hour, "
            f"{descriptors[0]:.0f} -> {descriptors[1]:.0f} descriptors, {cpu[0]:.2f} -> {cpu[1]:.2f} cores"
        )
        limit = f"<= {_RSS_PERCENT_PER_10_MINUTES:g}% in 10 minutes"
        holds = percent <= _RSS_PERCENT_PER_10_MINUTES
        found.append(Verdict(f"memory of {name}", f"{percent:+.2f}%", limit, holds, unless))
        grown = descriptors[1] - descriptors[0]
        found.append(Verdict(f"descriptors of {name}", f"{grown:+.0f}", f"<= +{_DESCRIPTORS:g}", grown <= _DESCRIPTORS))
    for group in samples[0].lags:
        lags = medians(partial(_lag, group))
        report.say(
            f"lag of {group:<16} {lags[0]:.0f} -> {lags[1]:.0f}, at most {max(one.lags[group] for one in samples)}"
        )
        drift = lags[1] - lags[0]
        found.append(Verdict(f"lag of {group}", f"{drift:+.0f}", f"<= +{rate:.0f}, a second's", drift <= rate))
    waiting = medians(lambda one: one.waiting)
    report.say(f"waiting in tiers        {waiting[0]:.0f} -> {waiting[1]:.0f}")
    return found


def _descriptors(name: str, sample: Sample) -> float:
    return sample.sizes[name].descriptors


def _lag(group: str, sample: Sample) -> float:
    return sample.lags[group]


def _cores(samples: Sequence[Sample], name: str) -> float:
    """How many it used."""
    passed_s = samples[-1].at_s - samples[0].at_s
    used_s = samples[-1].sizes[name].cpu_s - samples[0].sizes[name].cpu_s
    return used_s / passed_s if passed_s else 0.0


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line with the least squares."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else 0.0


def _line(sample: Sample) -> str:
    sizes = "  ".join(f"{name} {one.rss_mib:.0f} MiB {one.descriptors} fd" for name, one in sample.sizes.items())
    lags = "  ".join(f"{name} {lag}" for name, lag in sample.lags.items())
    return f"{sample.at_s:6.0f} s  {sizes}  behind: {lags}  waiting {sample.waiting}  load {os.getloadavg()[0]:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.5, help="of full speed")
    parser.add_argument("--fill", type=int, default=REMEMBERED_MAX, help="events that full speed is measured with")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--write", type=Path, help="a folder for the report")
    given = parser.parse_args()
    with pipeline() as line:
        return 0 if uvloop.run(run(line, given)) else 1


if __name__ == "__main__":
    sys.exit(main())
