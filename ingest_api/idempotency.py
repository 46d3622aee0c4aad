"""One event for one key: what a producer's `Idempotency-Key` stands for, in two phases.

A key is claimed (webhook id, hash of the body, pending) before its event is produced, and confirmed after Kafka's
acknowledgement. A repeat of a confirmed key is answered with its id. A repeat that finds it pending waits a little,
then produces again **with the same webhook id** and answers on its own acknowledgement: its claimer may be dead.
So a key can lead to several records, all of one name, and the log, the attempts and the receiver know them as one.

Redis is asked first: it answers repeats, and 100 posts at once are one claim. A key that Redis does not know is claimed
in Postgres as well, and what Postgres says counts: losing Redis, its content included, loses no key. What is left: a
key claimed while one of the two was out of reach is known to the other alone; is that one lost as well within the
24 hours, a repeat is a new event. Neither in reach: the event is accepted unchecked, and the answer says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from shared.clock import Clock
from shared.record_ids import new_webhook_id

#: How long a key stands for its event, from its claim.
KEPT_S = 24 * 3600
#: How long a repeat waits for whoever claimed its key.
WAIT_S = 2.0
_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 0.3
_KEY = re.compile(rb"[!-~]{1,255}")

#: `new` and `repeated`: checked; `unchecked`: no store could be asked.
Status = Literal["new", "repeated", "unchecked"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a key stands for. ``body_hash`` is a SHA-256."""

    webhook_id: str
    body_hash: bytes
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Fresh:
    """Nobody had claimed the key: it is ours now."""


@dataclass(frozen=True, slots=True)
class Unasked:
    """The store is out of reach."""


class Done(NamedTuple):
    """The event's id, and how it came about."""

    webhook_id: str
    status: Status


class OtherBody(Exception):
    """The key stands for an event with another body."""


class Store(Protocol):
    """Redis or Postgres. Neither call raises or waits for long."""

    async def claim(self, name: bytes, claim: Claim) -> Fresh | Claim | Unasked:
        """Ours, or what stands there already: of any number of calls at once, one is Fresh."""
        ...

    async def put(self, name: bytes, claim: Claim) -> None:
        """Write it whatever stands there, if the store can."""
        ...


Produce = Callable[[str], Awaitable[None]]


class _Outcome(NamedTuple):
    claim: Claim
    status: Status


class Idempotency:
    """The keys of this process's requests, over two stores."""

    def __init__(
        self,
        cache: Store,
        rows: Store,
        clock: Clock,
        *,
        new_id: Callable[[], str] = new_webhook_id,
        wait_s: float = WAIT_S,
    ) -> None:
        self._cache = cache
        self._rows = rows
        self._clock = clock
        self._new_id = new_id
        self._wait_s = wait_s
        #: Keys that a request of this process is at work for: its repeats wait for that, and ask no store.
        self._under_way: dict[bytes, asyncio.Future[_Outcome | None]] = {}
        self._confirming: set[asyncio.Task[None]] = set()

    async def once(self, name: bytes, body: bytes, produce: Produce) -> Done:
        """Produce at most one event under ``name``; ``produce`` is given its webhook id and returns once it is acked.

        Raises OtherBody, and whatever ``produce`` raises: the key stays pending then, and a repeat tries again.
        """
        mine = Claim(self._new_id(), hashlib.sha256(body).digest())
        deadline_s = self._clock.monotonic_s() + self._wait_s
        other = self._under_way.get(name)
        if other is not None:
            await asyncio.wait([other], timeout=self._wait_s)
            if other.done() and (outcome := other.result()) is not None:
                _check_body(outcome.claim, mine)
                repeated: Status = "repeated" if outcome.status == "new" else outcome.status
                return Done(outcome.claim.webhook_id, repeated)
        if name in self._under_way:  # stuck, or another one took its turn: the stores know the id
            return _done(await self._once(name, mine, deadline_s, produce))
        return _done(await self._registered(name, mine, deadline_s, produce))

    async def stop(self) -> None:
        """Until the last confirmations are written; each is bounded by its store."""
        if self._confirming:
            await asyncio.wait(self._confirming)

    async def _registered(self, name: bytes, mine: Claim, deadline_s: float, produce: Produce) -> _Outcome:
        future = self._under_way[name] = asyncio.get_running_loop().create_future()
        outcome = None
        try:
            outcome = await self._once(name, mine, deadline_s, produce)
            return outcome
        finally:
            del self._under_way[name]
            future.set_result(outcome)

    async def _once(self, name: bytes, mine: Claim, deadline_s: float, produce: Produce) -> _Outcome:
        found, checked = await self._claim(name, mine)
        claim = mine
        if found is not None:
            claim = await self._settled(name, found, mine, deadline_s)
            if claim.confirmed:
                return _Outcome(claim, "repeated")
        await produce(claim.webhook_id)
        self._confirm(name, replace(claim, confirmed=True))
        if not checked:
            return _Outcome(claim, "unchecked")
        return _Outcome(claim, "new" if found is None else "repeated")

    async def _claim(self, name: bytes, claim: Claim) -> tuple[Claim | None, bool]:
        """What stands there already, if anything; and whether anybody could be asked."""
        cached = await self._cache.claim(name, claim)
        if isinstance(cached, Claim):
            return cached, True
        row = await self._rows.claim(name, claim)
        if isinstance(row, Claim):
            await self._cache.put(name, row)  # Redis was away, or has forgotten
            return row, True
        return None, isinstance(cached, Fresh) or isinstance(row, Fresh)

    async def _settled(self, name: bytes, found: Claim, mine: Claim, deadline_s: float) -> Claim:
        """What stands there once it is confirmed, or pending still at the deadline: Postgres' word is the last then."""
        pause_s = _FIRST_POLL_S
        _check_body(found, mine)
        while not found.confirmed and (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, _LONGEST_POLL_S)
            found = (await self._claim(name, found))[0] or found
            _check_body(found, mine)
        if not found.confirmed:
            row = await self._rows.claim(name, found)
            found = row if isinstance(row, Claim) else found
            _check_body(found, mine)
        return found

    def _confirm(self, name: bytes, claim: Claim) -> None:
        """In the background: until it is written, a repeat finds the key pending, and waits a little."""
        task = asyncio.create_task(self._write(name, claim))
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _write(self, name: bytes, claim: Claim) -> None:
        await asyncio.gather(self._cache.put(name, claim), self._rows.put(name, claim))


def is_key(key: bytes) -> bool:
    """1 to 255 visible ASCII characters."""
    return _KEY.fullmatch(key) is not None


def name_of(tenant: str, route: str, key: bytes) -> bytes:
    """What the stores know a key by: the same key of another tenant or at another route is another one."""
    return hashlib.sha256(b"\0".join((tenant.encode(), route.encode(), key))).digest()


def _check_body(found: Claim, mine: Claim) -> None:
    if found.body_hash != mine.body_hash:
        raise OtherBody


def _done(outcome: _Outcome) -> Done:
    return Done(outcome.claim.webhook_id, outcome.status)
