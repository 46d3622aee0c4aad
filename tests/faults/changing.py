"""Subscriptions that are paused, resumed, edited, rotated and deleted all the time, and their producers."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from shared.record_ids import delivery_id
from shared.signature import decode_signing_secret, standard_signature
from tests.faults.history import ON_ITS_WAY_S, SEEN_S, History, Keys, known_at, signed_rightly
from tests.faults.load import Load, arrived
from tests.faults.oracle import Arrived, Finding
from tests.receiver import Arrival, Receiver
from tests.system import System

SUBSCRIPTIONS = 7
#: Those that may be deleted, by their numbers.
MAY_GO = (0, 1)
PRODUCERS = 4
#: Every subscription wants the first; the other is put into its filter and taken out again.
_ALWAYS, _SOMETIMES = "race.always", "race.sometimes"
_ALONE: tuple[str, ...] = (_ALWAYS,)
_BOTH: tuple[str, ...] = (_ALWAYS, _SOMETIMES)
#: One event in so many goes to all of them.
_WIDE_EVERY = 10
#: Every second one is slow to come back, so that pauses meet its job in the middle. What a limit has put off keeps its
#: time when the limit is lifted, so a lower one makes the end long.
_SLOW_RATE = 12
_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
_OVERLAPS_S = (0, 2, 5)


@dataclass(slots=True)
class Changing:
    """One subscription, and what was asked of it."""

    id: str
    number: int
    path: History[str]
    active: History[bool]
    types: History[tuple[str, ...]]
    keys: History[Keys]
    deleted_s: float = math.inf


class Race:
    """Whoever takes part, and what they were told."""

    def __init__(self, system: System, receiver: Receiver, load: Load, seed: int) -> None:
        self._system, self._receiver, self._load = system, receiver, load
        self._dice = random.Random(seed)
        self._all: list[Changing] = []
        self._stop = asyncio.Event()
        #: How often what was done.
        self.done: Counter[str] = Counter()
        #: Requests that were looked at.
        self.compared = 0
        #: Fan-outs: which subscription the delivery would be of, when the event was accepted.
        self._published: list[tuple[str, Changing, float]] = []

    async def prepare(self) -> None:
        for number in range(SUBSCRIPTIONS):
            asked_s, path = time.time(), f"race-{number}-0"
            slow = {"rate_limit": _SLOW_RATE} if number % 2 else {}
            made = await self._system.subscribe(f"{self._receiver.url}/{path}", event_types=list(_ALONE), **slow)
            first = Keys(decode_signing_secret(made["signing_secret"]))
            self._all.append(
                Changing(
                    made["id"],
                    number,
                    path=History(path, asked_s),
                    active=History(True, asked_s),
                    types=History(_ALONE, asked_s),
                    keys=History(first, asked_s),
                )
            )

    async def run(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """Until ``meanwhile`` has come to its end; then all that are left are resumed, without a limit."""
        async with asyncio.TaskGroup() as together:
            for _ in range(PRODUCERS):
                together.create_task(self._produce())
            for one in self._all:
                together.create_task(self._change(one))
            await meanwhile()
            self._stop.set()
        for one in self._left():
            await self._confirmed(one, partial(self._patch, one, {"rate_limit": None}, "lift"))
            await self._confirmed(one, partial(self._set_active, one, True))

    async def delete(self, number: int) -> None:
        """One of them, for good."""
        one = self._all[number]
        self._load.deleted.add(one.id)
        await self._confirmed(one, partial(self._delete, one))

    async def last_events(self, count: int = 5) -> None:
        """A second after the last change: whoever wants them now gets them."""
        await asyncio.sleep(SEEN_S)
        for number in range(count):
            await self._publish((_ALWAYS, _SOMETIMES)[number % 2])

    def _left(self) -> list[Changing]:
        return [one for one in self._all if one.id not in self._load.deleted]

    # ---- the producers

    async def _produce(self) -> None:
        while not self._stop.is_set():
            if self._dice.randrange(_WIDE_EVERY) == 0:
                await self._publish(self._dice.choice((_ALWAYS, _SOMETIMES)))
            else:
                await self._load.ingest(self._dice.choice(self._all).id, _ALWAYS)
            await asyncio.sleep(self._dice.uniform(0, 0.08))

    async def _publish(self, event_type: str) -> None:
        asked_s = time.time()
        certain = [one.id for one in self._all if event_type == _ALWAYS and one.number not in MAY_GO]
        # One whose deletion was asked for gets what it wants until somebody could be asked.
        possible = [one.id for one in self._all if one.id not in certain]
        event_id = await self._load.publish(event_type, certain, possible)
        if event_id is not None and event_type == _SOMETIMES:
            self._published += [(event_id, one, asked_s) for one in self._all]

    # ---- the changes

    async def _change(self, one: Changing) -> None:
        """Changes that follow each other closely, so that workers are behind, and longer quiet in between."""
        while not self._stop.is_set() and one.id not in self._load.deleted:
            match self._dice.choices(("pause", "resume", "move", "rotate", "filter", "rate"), (4, 5, 3, 2, 2, 1))[0]:
                case "pause":
                    await self._set_active(one, False)
                case "resume":
                    await self._set_active(one, True)
                case "move":
                    await self._move(one)
                case "rotate":
                    await self._rotate(one, self._dice.choice(_OVERLAPS_S))
                case "filter":
                    await self._filter(one, _ALONE if one.types.last == _BOTH else _BOTH)
                case _:
                    rate = self._dice.choice((None, _SLOW_RATE, 50))
                    await self._patch(one, {"rate_limit": rate}, "rate")
            await asyncio.sleep(self._dice.choice(_PAUSES_S))

    async def _set_active(self, one: Changing, active: bool) -> bool:
        action = "resume" if active else "pause"
        return await self._asked(one, one.active, active, "POST", f"/{action}", None, action)

    async def _move(self, one: Changing) -> bool:
        path = f"race-{one.number}-{len(one.path.changes)}"
        body = {"target_url": f"{self._receiver.url}/{path}"}
        return await self._asked(one, one.path, path, "PATCH", "", body, "move")

    async def _filter(self, one: Changing, types: tuple[str, ...]) -> bool:
        return await self._asked(one, one.types, types, "PATCH", "", {"event_types": list(types)}, "filter")

    async def _patch(self, one: Changing, body: Mapping[str, Any], name: str) -> bool:
        """What leaves no trace in requests."""
        answer = await self._ask(one, "PATCH", "", body)
        self.done[name] += answer is not None
        return answer is not None

    async def _asked(
        self, one: Changing, history: History[Any], value: object, method: str, path: str, body: Any, name: str
    ) -> bool:
        sent_s = time.time()
        answer = await self._ask(one, method, path, body)
        if answer is None or answer.status_code == 200:
            history.note(value, sent_s, math.inf if answer is None else time.time())
        self.done[name if answer is not None else "no answer"] += 1
        return answer is not None

    async def _rotate(self, one: Changing, overlap_s: int) -> bool:
        sent_s = time.time()
        answer = await self._ask(one, "POST", "/rotate-secret", {"overlap_seconds": overlap_s})
        if answer is None:
            one.keys.note(Keys(None, overlap_s), sent_s)
        elif answer.status_code == 200:
            key = decode_signing_secret(answer.json()["signing_secret"])
            one.keys.note(Keys(key, overlap_s), sent_s, time.time())
        self.done["rotate" if answer is not None else "no answer"] += 1
        return answer is not None

    async def _delete(self, one: Changing) -> bool:
        answer = await self._ask(one, "DELETE", "", None)
        if answer is not None:
            one.deleted_s = time.time()
            self.done["delete"] += 1
        return answer is not None

    async def _confirmed(self, one: Changing, act: Callable[[], Awaitable[bool]], within_s: float = 60) -> None:
        deadline_s = time.monotonic() + within_s
        while not await act():
            assert time.monotonic() < deadline_s, f"{one.id} could not be changed"
            await asyncio.sleep(0.2)

    async def _ask(self, one: Changing, method: str, path: str, body: Any) -> httpx.Response | None:
        """The answer; None: there was none, or 503. Any other than what is expected is a surprise."""
        try:
            answer = await self._system.api.request(method, f"/subscriptions/{one.id}{path}", json=body)
        except httpx.HTTPError:
            return None
        if answer.status_code == 503 and "Retry-After" in answer.headers:
            return None
        gone = answer.status_code == 404 and one.id in self._load.deleted
        too_often = answer.status_code == 409 and path == "/rotate-secret"
        if not (answer.is_success or gone or too_often):
            self._load.surprises[f"{answer.status_code} to {method} {path}: {answer.text[:200]}"] += 1
        return answer

    # ---- the count

    def findings(self) -> list[Finding]:
        """Requests that went where, when or signed as they must not."""
        by_path = {f"/{change.value}": one for one in self._all for change in one.path.changes}
        found = []
        self.compared = 0
        for arrival, told in zip(self._receiver.arrivals, arrived(self._receiver), strict=True):
            if one := by_path.get(arrival.path):
                self.compared += 1
                found += [
                    Finding(what, str(told.key), _told(one, arrival, told)) for what in wrongs(one, arrival, told)
                ]
        return [*found, *self._filtered()]

    def _filtered(self) -> list[Finding]:
        """Of each fan-out: not to whom did not want it all the time, and to whom did."""
        first_s = {told.webhook_id: told.at_s for told in reversed(arrived(self._receiver))}
        found = []
        for event_id, one, asked_s in self._published:
            name = delivery_id(event_id, one.id)
            # It was matched with the filters after it was posted and, if it arrived, before that.
            arrived_s = first_s.get(name, math.inf)
            wanted = [_SOMETIMES in types for types in one.types.values(asked_s, arrived_s)]
            if arrived_s < math.inf and not any(wanted):
                found.append(Finding("nobody wanted it", name, f"race-{one.number}"))
            elif arrived_s == math.inf and all(wanted) and one.deleted_s == math.inf:
                found.append(Finding("lost", name, f"race-{one.number} wanted it"))
        return found


def wrongs(one: Changing, arrival: Arrival, told: Arrived) -> Iterable[str]:
    """What is wrong about a request, once all that was asked of its subscription is known."""
    signed_s = int(arrival.headers["webhook-timestamp"])
    when = known_at(signed_s, told.at_s)
    # The receiver's clock is converted: a few milliseconds do not count.
    if not signed_s - 0.1 <= told.at_s <= signed_s + ON_ITS_WAY_S:
        yield "signed at another time"
    if arrival.path.removeprefix("/") not in one.path.values(*when):
        yield "at an address that is another's"
    if True not in one.active.values(*when):
        yield "delivered although paused"
    if when[0] > one.deleted_s + SEEN_S:
        yield "delivered although deleted"
    if not signed_rightly(one.keys, when, *_signed_by(one, arrival)):
        yield "signed by others"


def _signed_by(one: Changing, arrival: Arrival) -> tuple[set[int], int]:
    """Which rotations' keys signed it, and how many signatures are by none of them."""
    there = set(arrival.headers["webhook-signature"].split())
    timestamp_s = int(arrival.headers["webhook-timestamp"])
    signatures = {
        number: standard_signature((change.value.key,), arrival.headers["webhook-id"], timestamp_s, arrival.body)
        for number, change in enumerate(one.keys.changes)
        if change.value.key is not None
    }
    signers = {number for number, signature in signatures.items() if signature in there}
    return signers, len(there) - len(signers)


def _told(one: Changing, arrival: Arrival, told: Arrived) -> str:
    """Where a request went, who signed it, and the rotations of half a minute, in seconds before it."""
    signers, unknown = _signed_by(one, arrival)
    rotations = [
        f"{number}: sent {told.at_s - change.sent_s:.2f}, answered {told.at_s - change.acked_s:.2f}, "
        f"overlap {change.value.overlap_s:g}"
        for number, change in enumerate(one.keys.changes)
        if -1 < told.at_s - change.sent_s < 30
    ]
    late_s = told.at_s - int(arrival.headers["webhook-timestamp"])
    signed = f"signed by {sorted(signers)} and {unknown} unknown, {late_s:.2f} before"
    return f"{arrival.path}, {signed}; {'; '.join(rotations)}"
