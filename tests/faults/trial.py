"""One load, its faults, and the count: what every fault test is made of.

async with Trial(own_stack, await own_stack.fresh_settings(), seed) as trial:
    async with trial.load.running():
        await trial.strike(fault)
    verdict = await trial.count()
assert verdict.ok, verdict
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import psycopg2
from aiokafka.errors import KafkaError

from shared.settings import Settings
from tests.faults.bounds import Traffic, in_flight, scheduler_bound, stream_bound
from tests.faults.ledger import books_of, read_deliveries, statuses
from tests.faults.load import Load
from tests.faults.oracle import ENDED, LATE_S, Finding, Verdict, Window, judge
from tests.faults.schedule import KILL, LEAVE, STOP, Fault
from tests.group_commits import commits_watched, unfinished
from tests.own_stack import KAFKA, OwnStack
from tests.receiver import Receiver
from tests.system import PROGRAMS, SCHEDULER, SINK, STREAM, System

_LOOK_EVERY_S = 0.1
_RESTART_AFTER_S = 1.0
#: Whatever happened, everything works again within this, and nobody did anything about it.
RECOVERS_WITHIN_S = 60.0
#: An open breaker lets one through at a time, and waits for up to five minutes between two.
SETTLES_WITHIN_S = 300.0


class Parts(Protocol):
    """Who has processes that can be hit: the stack, and the system on it."""

    def start(self, name: str) -> None: ...
    def kill(self, name: str, number: signal.Signals) -> None: ...
    def exit_code(self, name: str) -> int | None: ...
    async def ended(self, name: str) -> int: ...
    async def why_not(self, name: str) -> str: ...
    def last_words(self, name: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Struck:
    """What became of one fault. Times are seconds since 1970 and durations."""

    name: str
    victim: str
    kind: str
    began_s: float
    #: It was over: the process was started, or went on.
    over_s: float
    #: From then until the victim said that it was ready, and until a new event had gone the whole way.
    ready_after_s: float
    works_after_s: float

    def __str__(self) -> str:
        return (
            f"{self.name} for {self.over_s - self.began_s:.1f} s: ready after {self.ready_after_s:.1f} s, "
            f"works after {self.works_after_s:.1f} s"
        )


class Trial:
    """A receiver, a system and a load on a stack of its own, and somebody who starts again whatever ends."""

    def __init__(
        self,
        own: OwnStack,
        settings: Settings,
        seed: int,
        *,
        per_second: float = 40.0,
        programs: tuple[str, ...] = PROGRAMS,
        system: System | None = None,
        late_s: float = LATE_S,
    ) -> None:
        """``programs``: ``delivery-stream#2`` is a second one of its kind. ``system``: when it is not simply theirs.

        ``late_s``: how long a repeat may wait where there is more than tiers and breakers to wait for.
        """
        self._late_s = late_s
        self._own, self.settings, self._programs = own, settings, programs
        self.receiver, self.system = Receiver(), system or System(settings, only=programs)
        self.load = Load(self.system, self.receiver, seed, per_second=per_second)
        self.struck: list[Struck] = []
        #: What must not be, and is none of the oracle's business.
        self.findings: list[Finding] = []
        self._stopping = AsyncExitStack()
        #: These are dead or frozen because we want it.
        self._victims: set[str] = set()
        #: Whom we took away, when, and how.
        self._losses: list[tuple[float, str, signal.Signals]] = []
        self._restarting = asyncio.Lock()
        self._groups = {
            settings.topics.group(STREAM): (settings.topics.deliveries, settings.topics.events),
            settings.topics.group(SCHEDULER): tuple(map(settings.topics.tier, settings.schedule.tiers_s)),
            settings.topics.group(SINK): (settings.topics.attempts, settings.topics.deliveries, settings.topics.events),
        }

    @property
    def victims(self) -> tuple[str, ...]:
        """Everything that can be hit here."""
        return (*self._programs, *self._own.names)

    async def __aenter__(self) -> Trial:
        async with AsyncExitStack() as stopping:
            await stopping.enter_async_context(self.receiver)
            await stopping.enter_async_context(self.system)
            await self.load.prepare()
            stopping.push_async_callback(self.load.close)
            groups = [self.settings.topics.group(name) for name in (STREAM, SCHEDULER)]
            self._commits = await stopping.enter_async_context(commits_watched(self.settings, groups))
            watching = asyncio.create_task(self._restart_what_ends())
            stopping.callback(watching.cancel)
            self._stopping = stopping.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stopping.__aexit__(kind, error, trace)

    def _parts_with(self, name: str) -> Parts:
        return self._own if name in self._own.names else self.system

    # ---- the faults

    async def play(self, faults: Sequence[Fault]) -> None:
        """One after the other; each begins when the victim of the one before it is ready again, and its gap later."""
        for fault in faults:
            await asyncio.sleep(fault.gap_s)
            await self.strike(fault)

    async def strike(self, fault: Fault) -> Struck:
        """Kill or freeze the victim, bring it back, and wait until everything works again."""
        async with self.fault(fault.victim, fault.how.name), self.away(fault.victim, how=fault.how):
            await asyncio.sleep(fault.duration_s)
        return self.struck[-1]

    @asynccontextmanager
    async def away(self, *victims: str, how: signal.Signals = KILL) -> AsyncIterator[None]:
        """Killed, told to stop, or frozen; after the block they are started again, or go on."""
        for victim in victims:
            await self._take_away(victim, how)
        try:
            yield
        finally:
            for victim in victims:
                if how == STOP:
                    self._parts_with(victim).kill(victim, signal.SIGCONT)
                else:
                    self._parts_with(victim).start(victim)
            self._victims.difference_update(victims)

    async def _take_away(self, victim: str, how: signal.Signals) -> None:
        parts = self._parts_with(victim)
        async with self._restarting:
            self._note_if_ended(victim)
            self._victims.add(victim)
            self._losses.append((time.time(), victim, how))
            parts.kill(victim, how)
        if how != STOP and (code := await parts.ended(victim)) and how == signal.SIGTERM and victim in self._programs:
            self.findings.append(Finding("did not stop in order", victim, f"exit {code}\n{parts.last_words(victim)}"))

    @contextmanager
    def excused(self, name: str) -> Iterator[None]:
        """It may end by itself, which is none of our findings; whoever says so starts it again."""
        self._victims.add(name)
        try:
            yield
        finally:
            self._victims.discard(name)

    @asynccontextmanager
    async def fault(self, victim: str, kind: str, *, sufferers: Sequence[str] = ()) -> AsyncIterator[None]:
        """Any fault: the block does the harm and ends it. Afterwards all must work again without anybody's help.

        ``sufferers``: who must be ready again; the victim, if nobody is named.
        """
        began_s = time.time()
        yield
        over_s = time.time()
        name = f"{len(self.struck) + 1}. {kind} of {victim}"
        *ready_after_s, works_after_s = await asyncio.gather(
            *(self.ready_after_s(one, name) for one in sufferers or (victim,)), self._works_after_s(victim, name)
        )
        self.struck.append(Struck(name, victim, kind, began_s, over_s, max(ready_after_s), works_after_s))

    async def ready_after_s(self, victim: str, name: str) -> float:
        """How long it took until it says that it is ready; that it does not is a finding about ``name``."""
        began_s = time.monotonic()
        while why := await self._parts_with(victim).why_not(victim) if victim in self.victims else "":
            if time.monotonic() - began_s > RECOVERS_WITHIN_S:
                self.findings.append(Finding("not ready again", name, f"{victim}: {why}"))
                break
            await asyncio.sleep(0.05)
        return time.monotonic() - began_s

    async def _works_after_s(self, victim: str, name: str) -> float:
        began_s = time.monotonic()
        # Without a scheduler all works but retries.
        if not await self.load.probe(RECOVERS_WITHIN_S, retried=kind_of(victim) == SCHEDULER):
            self.findings.append(Finding("nothing arrives", name, f"for {RECOVERS_WITHIN_S:.0f} s"))
        return time.monotonic() - began_s

    async def _restart_what_ends(self) -> None:
        """Plays the supervisor; a process that ends by itself is started again as well, and is a finding."""
        while True:
            for name in self.victims:
                async with self._restarting:
                    if name not in self._victims and self._note_if_ended(name):
                        await self._parts_with(name).ended(name)
                        await asyncio.sleep(_RESTART_AFTER_S)
                        self._parts_with(name).start(name)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _note_if_ended(self, name: str) -> bool:
        parts = self._parts_with(name)
        if (code := parts.exit_code(name)) is None:
            return False
        self.findings.append(Finding("ended by itself", name, f"exit {code}\n{parts.last_words(name)}"))
        return True

    # ---- the count

    async def end_in_favour(self, within_s: float = SETTLES_WITHIN_S) -> None:
        """Until what was accepted has ended, among events that succeed: no breaker keeps the last failures for minutes.

        What is not in time, the count finds.
        """
        owed = self._owed()
        deadline_s = time.monotonic() + within_s
        async with self.load.favour():
            while await asyncio.to_thread(self._left, owed) > 0:
                if time.monotonic() > deadline_s:
                    break
                await asyncio.sleep(0.3)

    async def count(self, settles_within_s: float = SETTLES_WITHIN_S) -> Verdict:
        """Once everything has come to its end, or should have: whether it did."""
        await self._settle(settles_within_s)
        books = await books_of(self.settings, self.load, self.receiver)
        traffic = Traffic(
            books.arrived,
            books.logged,
            await read_deliveries(self.settings),
            self._commits[self.settings.topics.group(STREAM)],
            self._commits[self.settings.topics.group(SCHEDULER)],
        )
        verdict = judge(books, [self._window(one, traffic) for one in self.struck])
        surprises = [Finding("an answer nobody should get", what, f"{n}") for what, n in self.load.surprises.items()]
        return replace(verdict, findings=(*verdict.findings, *self.findings, *surprises))

    async def _settle(self, within_s: float) -> None:
        """Until nothing is left in any queue and all that was accepted has ended. What is not in time, is counted."""
        owed = self._owed()
        deadline_s = time.monotonic() + within_s
        left: dict[str, int] = {}
        while time.monotonic() < deadline_s:
            try:
                if not (left := await unfinished(self.settings, self._groups)):
                    if not (count := await asyncio.to_thread(self._left, owed)):
                        return
                    left = {"deliveries": count}
            except (psycopg2.Error, KafkaError) as error:
                left = {repr(error): 1}
            await asyncio.sleep(0.3)
        self.findings += [Finding("not finished in time", what, f"{count}") for what, count in left.items()]

    def _owed(self) -> list[str]:
        return [one for sent in self.load.sent.values() for one in sent.owed]

    def _left(self, owed: Sequence[str]) -> int:
        """How many of these deliveries have not ended."""
        status = statuses(self.settings)
        return sum(status.get(one) not in ENDED for one in owed)

    def _window(self, struck: Struck, traffic: Traffic) -> Window:
        """The fault with what it may repeat: as much as each process that was lost in it."""
        losses = [one for one in self._losses if struck.began_s <= one[0] <= struck.over_s]
        bound = sum(self._bound(*one, traffic) for one in losses or [(struck.began_s, struck.victim, KILL)])
        ended_s = struck.over_s + max(struck.ready_after_s, struck.works_after_s)
        return Window(struck.name, struck.began_s, ended_s, bound, self._late_s)

    def _bound(self, at_s: float, victim: str, how: signal.Signals, traffic: Traffic) -> int:
        """Losing the API, the sink or a store repeats nothing; who leaves in order commits what is finished."""
        kind = kind_of(victim)
        alike = sum(kind_of(name) == kind for name in self._programs)
        if how == LEAVE:
            return len(in_flight(traffic, at_s)) if kind == STREAM else 0
        if kind == STREAM or kind.startswith(KAFKA):
            return stream_bound(traffic, at_s, alike)
        return scheduler_bound(traffic, at_s, alike) if kind == SCHEDULER else 0


def kind_of(name: str) -> str:
    """``delivery-stream#2`` -> ``delivery-stream``."""
    return name.partition("#")[0]
