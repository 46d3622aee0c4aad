"""Numbered events for endpoints that answer by the event's number, and all that their producer was told."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aiohttp

from shared.record_ids import delivery_id
from tests.faults.oracle import Arrived, Sent
from tests.receiver import Answer, Arrival, Receiver, Step
from tests.system import System

#: Event types: to one subscription by its id; to all of FAN_OUT; and the one that asks whether all works again.
_ONE, _WIDE, _PROBE = "load.one", "load.wide", "load.probe"
ENDPOINTS = 24
FAN_OUT = 6
#: Every fourth endpoint takes so long: something is always in flight.
_SLOW_S = 0.4
#: One event in so many goes to all of FAN_OUT.
_WIDE_EVERY = 8
#: One producer's event in so many has an Idempotency-Key and is posted again until it is accepted.
_KEYED_EVERY = 4
_TRIES_MAX = 20
_PRODUCERS = 8
#: Longer than the API waits for Kafka.
_ANSWER_WITHIN_S = 8.0
_PADDING_MAX_BYTES = 1500
_NUMBER = re.compile(rb'\{"n": *(\d+)')
#: Of so many events one fails for ever, one twice and two once: an endpoint fails rarely enough to stay in favour.
_FATES = 16
_FAILURES = {0: 1_000_000, 1: 2, 2: 1, 3: 1}


def status_for(number: int, attempt: int) -> int:
    """What an endpoint answers: the same to each attempt's repeat."""
    return 500 if attempt <= _FAILURES.get(number % _FATES, 0) else 200


class Load:
    """Producers that keep to a pace while they are answered, and know of each event what they may expect."""

    def __init__(self, system: System, receiver: Receiver, seed: int, *, per_second: float) -> None:
        self._system, self._receiver = system, receiver
        self._dice = random.Random(seed)
        self._pause_s = _PRODUCERS / per_second
        self._numbers = itertools.count(1)
        self.endpoints: list[str] = []
        self._wide: list[str] = []
        self._leaving = self._probed = self._probed_again = ""
        self._leaves = False
        self._session: aiohttp.ClientSession
        #: Every event that was posted, by its number; those that were refused are not expected anywhere.
        self.sent: dict[int, Sent] = {}
        #: Subscriptions that were deleted, or may have been.
        self.deleted: set[str] = set()
        #: Answers that nobody should get, by what they say.
        self.surprises: Counter[str] = Counter()
        #: Webhook ids of the 202s, in their order; the wide ones' not among them.
        self.accepted: list[str] = []

    # ---- the endpoints

    async def prepare(self) -> None:
        """Subscribe all endpoints. Everything works."""
        self._receiver.script_default(_answer)
        self._session = aiohttp.ClientSession(
            str(self._system.api.base_url), timeout=aiohttp.ClientTimeout(_ANSWER_WITHIN_S)
        )
        for number in range(ENDPOINTS):
            self.endpoints.append(await self.subscribe(f"{'slow' if number % 4 == 0 else 'quick'}-{number}", _ONE))
        self._wide = [await self.subscribe(f"wide-{number}", _WIDE) for number in range(FAN_OUT)]
        self._leaving = await self.subscribe("leaving", _ONE, _WIDE)
        self._probed = await self.subscribe("probe", _PROBE)
        self._probed_again = await self.subscribe("again", _PROBE)

    async def close(self) -> None:
        await self._session.close()

    async def subscribe(self, path: str, *event_types: str) -> str:
        """An endpoint of the receiver, and its subscription's id."""
        created = await self._system.subscribe(f"{self._receiver.url}/{path}", event_types=list(event_types))
        return str(created["id"])

    async def delete_one(self, within_s: float = 60) -> None:
        """A subscription with events under way, and retries of some, is deleted."""
        await asyncio.gather(*(self.ingest(self._leaving) for _ in range(4 * _FATES)))
        self._leaves = True
        self.deleted.add(self._leaving)
        deadline_s = time.monotonic() + within_s
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.delete(f"/subscriptions/{self._leaving}") as answer:
                    if answer.status in (204, 404):
                        return
            assert time.monotonic() < deadline_s, "the subscription could not be deleted"
            await asyncio.sleep(0.2)

    # ---- the producers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Events all the time, until the end of the block; what was accepted is known then."""
        stop = asyncio.Event()
        producers = [asyncio.create_task(self._produce(stop)) for _ in range(_PRODUCERS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*producers)

    @asynccontextmanager
    async def favour(self) -> AsyncIterator[None]:
        """In the block each endpoint is sent one event a second that succeeds, as its breaker likes it."""
        stop = asyncio.Event()

        async def keep(subscription_id: str, event_type: str) -> None:
            while not stop.is_set():
                await self.ingest(subscription_id, event_type, succeeds=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await stop.wait()

        wanted = [*((one, _ONE) for one in self.endpoints), *((one, _WIDE) for one in self._wide)]
        keepers = [asyncio.create_task(keep(*one)) for one in wanted]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*keepers)

    async def burst(self, count: int, producers: int = 32) -> None:
        """So many events, each to one endpoint that takes it at once, as fast as they are answered."""
        takers = [await self.subscribe(f"clean-{number}", _PROBE) for number in range(FAN_OUT)]
        left = iter(range(count))

        async def producer() -> None:
            for number in left:
                await self.ingest(takers[number % len(takers)], _PROBE)

        await asyncio.gather(*(producer() for _ in range(producers)))

    async def probe(self, within_s: float, *, retried: bool = False) -> bool:
        """Whether an event posted from now on arrived and is known to have succeeded, all within this time.

        ``retried``: at its second attempt.
        """
        subscription_id = self._probed_again if retried else self._probed
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            webhook_id = await self.ingest(subscription_id, _PROBE)
            if webhook_id and await self._succeeded(webhook_id, deadline_s):
                return True
            await asyncio.sleep(0.1)
        return False

    async def _succeeded(self, webhook_id: str, deadline_s: float) -> bool:
        while time.monotonic() < deadline_s:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(f"/status/{webhook_id}") as answer:
                    if answer.status == 200 and (await answer.json())["status"] == "succeeded":
                        return True
            await asyncio.sleep(0.1)
        return False

    async def _produce(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            tries = _TRIES_MAX if self._dice.randrange(_KEYED_EVERY) == 0 else 1
            if self._dice.randrange(_WIDE_EVERY) == 0:
                # Until its deletion has come everywhere, and the API may be down when it is asked for.
                await self.publish(_WIDE, self._wide, (self._leaving,), tries)
            else:
                one = self._dice.choice((*self.endpoints, self._leaving))
                await self.ingest(self.endpoints[0] if self._leaves and one == self._leaving else one, tries=tries)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._dice.uniform(0.5, 1.5) * self._pause_s):
                    await stop.wait()

    async def ingest(
        self, subscription_id: str, event_type: str = _ONE, tries: int = 1, *, succeeds: bool = False
    ) -> str | None:
        """One event to one subscription; gives its webhook id if there was a 202. ``succeeds``: at once."""
        number = self.next_event(may_become=1, succeeds=succeeds)
        told = await self._post(f"/ingest/{subscription_id}", number, event_type, tries)
        if told is None:
            return None
        webhook_id = str(told["webhook_id"])
        self.accepted.append(webhook_id)
        self.sent[number] = replace(self.sent[number], owed={webhook_id: subscription_id})
        return webhook_id

    async def publish(
        self, event_type: str, owed: Sequence[str], possible: Sequence[str], tries: int = 1
    ) -> str | None:
        """One event to everybody who wants it, and to whom that may be; gives its id if there was a 202."""
        number = self.next_event(may_become=len(owed) + len(possible))
        if (told := await self._post("/events", number, event_type, tries)) is None:
            return None
        event_id = str(told["event_id"])
        self.sent[number] = replace(
            self.sent[number],
            owed={delivery_id(event_id, one): one for one in owed},
            possible={delivery_id(event_id, one): one for one in possible},
        )
        return event_id

    def next_event(self, may_become: int, *, succeeds: bool = False) -> int:
        """The number of a new event; until there is an answer, nobody knows what became of it."""
        number = next(one for one in self._numbers if not succeeds or status_for(one, attempt=1) == 200)
        # As no serialiser would write it: bytes that are read and written again are other bytes.
        padding = self._dice.randbytes(self._dice.randrange(_PADDING_MAX_BYTES // 2)).hex()
        body = f'{{"n":  {number}, "größe" : 1.50e1,"p":"{padding}" }}'.encode()
        self.sent[number] = Sent(number, body, unanswered=may_become)
        return number

    async def _post(self, path: str, number: int, event_type: str, tries: int) -> Mapping[str, object] | None:
        """What a 202 says. More than one try: with a key, so that all of them are one event.

        Any other answer but 503 (with Retry-After) and 404 (of what is being deleted) is a surprise.
        """
        headers = {"Content-Type": "application/json", "X-Event-Type": event_type}
        if tries > 1:
            headers["Idempotency-Key"] = f"event-{number}"
        for earlier in range(tries):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.post(path, data=self.sent[number].body, headers=headers) as answer:
                    if answer.status == 202:
                        # What is checked is one event, whatever became of the tries before.
                        if answer.headers.get("Idempotency-Status") != "unchecked":
                            self.sent[number] = replace(self.sent[number], unanswered=0)
                        told: Mapping[str, object] = await answer.json()
                        return told
                    if answer.status == 404 and path.rpartition("/")[2] in self.deleted:
                        if not earlier:
                            self.sent[number] = replace(self.sent[number], unanswered=0)
                        return None
                    if answer.status != 503 or "Retry-After" not in answer.headers:
                        self.surprises[f"{answer.status}: {(await answer.text())[:200]}"] += 1
                        return None
            await asyncio.sleep(self._pause_s)
        return None


def _answer(arrival: Arrival) -> Step:
    status = _status_of(arrival)
    return Answer(status, delay_s=_SLOW_S) if arrival.path.startswith("/slow") else status


def _status_of(arrival: Arrival) -> int:
    number = _NUMBER.match(arrival.body)
    if number is None:
        return 400
    if arrival.path == "/again":
        return 500 if _attempt_of(arrival) == 1 else 200
    return 200 if arrival.path.startswith(("/probe", "/clean")) else status_for(int(number[1]), _attempt_of(arrival))


def _attempt_of(arrival: Arrival) -> int:
    return int(arrival.headers["x-webhook-attempt"])


def arrived(receiver: Receiver) -> list[Arrived]:
    """What came, with times since 1970."""
    since_1970_s = time.time() - time.monotonic()
    return [
        Arrived(one.headers["webhook-id"], _attempt_of(one), one.body, _status_of(one), one.at_s + since_1970_s)
        for one in receiver.arrivals
    ]
