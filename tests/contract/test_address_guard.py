"""The guard against names that change: a name server that rebinds, a sender that asks it.

127.0.0.2 plays the public address, since no test may call one: it is all that is allowed. 127.0.0.1, on the same port,
is what must not be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from delivery_stream.decision import Answered, NoAnswer, Refused
from delivery_stream.name_servers import NameServers
from delivery_stream.resolver import Resolver
from delivery_stream.sender import Sender
from tests.name_server import EMPTY, NO_SUCH_NAME, SILENCE, NameServer, Says, says
from tests.receiver import Answer, Receiver

PUBLIC = "127.0.0.2"
INSIDE = "127.0.0.1"


@dataclass(slots=True)
class Place:
    names: NameServer
    public: Receiver
    inside: Receiver
    sender: Sender

    async def post(self, host: str = "host.example", timeout_s: float = 5.0) -> Answered | NoAnswer | Refused:
        return await self.sender.post(f"http://{host}:{self.public.port}/", [], b"", timeout_s)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """No answer is remembered: each new connection asks again, as it would after the TTL."""
    async with NameServer() as names, Receiver(PUBLIC) as public, Receiver(INSIDE, public.port) as inside:
        for receiver in (public, inside):
            receiver.script_default(Answer(headers=(("connection", "close"),)))
        resolver = Resolver(NameServers([names.address]), ttl_min_s=0)
        sender = Sender([ip_network(f"{PUBLIC}/32")], resolver=resolver)
        yield Place(names, public, inside, sender)
        await sender.close()


def blocked(outcome: Answered | NoAnswer | Refused) -> bool:
    return isinstance(outcome, Refused) and outcome.reason == "blocked"


def called(outcome: Answered | NoAnswer | Refused) -> str | None:
    assert isinstance(outcome, Answered), outcome
    return outcome.timings.address


async def test_a_name_that_turns_inside_after_a_first_good_answer_is_blocked(place: Place) -> None:
    place.names.script("host.example", says(PUBLIC, ttl_s=0), says(INSIDE, ttl_s=0))
    assert called(await place.post()) == PUBLIC
    assert blocked(await place.post())
    assert place.names.asked("host.example") == 2
    assert (place.public.connections_seen, place.inside.connections_seen) == (1, 0)


async def test_a_name_that_turns_with_every_question_reaches_what_was_vetted_or_nothing(place: Place) -> None:
    """Between looking and calling nothing asks again, so there is no moment to turn in."""
    turns = [says(PUBLIC, ttl_s=0), says(INSIDE, ttl_s=0)] * 20
    place.names.script("host.example", *turns)
    outcomes = [await place.post() for _ in turns]
    assert [blocked(outcome) for outcome in outcomes] == [False, True] * 20
    assert {called(outcome) for outcome in outcomes[::2]} == {PUBLIC}
    assert place.names.asked("host.example") == len(turns)
    assert (place.public.connections_seen, place.inside.connections_seen) == (20, 0)


async def test_a_remembered_answer_is_vetted_again(place: Place) -> None:
    place.names.script("host.example", says(INSIDE, ttl_s=60))
    assert [blocked(await place.post()) for _ in range(3)] == [True] * 3
    assert place.names.asked("host.example") == 1
    assert place.inside.connections_seen == 0


@pytest.mark.parametrize(
    "mixed",
    [
        [PUBLIC, INSIDE],
        [INSIDE, PUBLIC],
        [PUBLIC, "10.0.0.1"],
        [PUBLIC, "::1"],
        [PUBLIC, "::ffff:127.0.0.1"],
        [PUBLIC, "64:ff9b::7f00:1"],
        [PUBLIC, "64:ff9b:1::1"],
        [PUBLIC, "2002:7f00:1::"],
        [PUBLIC, "2001:0:4136:e378:8000:63bf:80ff:fffe"],
        [PUBLIC, "::127.0.0.1"],
        [PUBLIC, "fe80::1"],
        [*(f"127.0.0.{n}" for n in range(2, 60)), PUBLIC],
    ],
    ids=lambda mixed: mixed[-1] if mixed[0] == PUBLIC else mixed[0],
)
async def test_one_bad_address_among_good_ones_refuses_all(place: Place, mixed: list[str]) -> None:
    place.names.script("host.example", says(*mixed))
    assert blocked(await place.post())
    assert (place.public.connections_seen, place.inside.connections_seen) == (0, 0)


async def test_a_good_address_in_a_wrapping_is_called_as_it_was_vetted(place: Place) -> None:
    place.names.script("host.example", says(f"::ffff:{PUBLIC}"))
    assert ip_address(called(await place.post()) or "") == ip_address(f"::ffff:{PUBLIC}")  # Python 3.13 writes it anew
    assert (place.public.connections_seen, place.inside.connections_seen) == (1, 0)


async def test_an_alias_is_followed_to_the_address_and_that_is_vetted(place: Place) -> None:
    chain = (("host.example", "a.example"), ("a.example", "localhost"))
    place.names.script("host.example", Says((INSIDE,), chain, ttl_s=0, alias_ttl_s=0), Says((PUBLIC,), chain))
    assert blocked(await place.post())
    assert called(await place.post()) == PUBLIC
    assert place.inside.connections_seen == 0


@pytest.mark.parametrize("host", ["localhost", "any.localhost", "LOCALHOST."])
async def test_localhost_is_blocked_without_a_question(place: Place, host: str) -> None:
    assert blocked(await place.post(host))
    assert place.names.questions == []


async def test_an_answer_that_comes_over_tcp_is_vetted_to_the_last(place: Place) -> None:
    place.names.script("host.example", says(PUBLIC, *(f"8.8.8.{n}" for n in range(50)), INSIDE))
    assert blocked(await place.post())
    assert ("host.example", "A", "tcp") in place.names.questions
    assert (place.public.connections_seen, place.inside.connections_seen) == (0, 0)


@pytest.mark.parametrize(
    "answer", [NO_SUCH_NAME, EMPTY, Says(rcode="SERVFAIL"), says(*(f"10.1.{n // 250}.{n % 250}" for n in range(3900)))]
)
async def test_no_address_is_a_failure_that_is_tried_again_and_no_block(place: Place, answer: Says) -> None:
    place.names.script("host.example", answer)
    outcome = await place.post()
    assert isinstance(outcome, NoAnswer)
    assert outcome.error_class == "dns_failed"
    assert outcome.timings.dns_ms is not None
    assert place.names.address not in outcome.details


async def test_the_deadline_of_the_attempt_ends_the_wait_for_a_silent_server(place: Place) -> None:
    place.names.script("host.example", SILENCE)
    outcome = await place.post(timeout_s=0.1)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.error_class, outcome.details) == ("dns_failed", "no answer in time")


async def test_a_slow_answer_is_waited_for_within_the_deadline(place: Place) -> None:
    place.names.script("host.example", Says((PUBLIC,), delay_s=0.3))
    impatient, patient = await asyncio.gather(place.post(timeout_s=0.05), place.post(timeout_s=10))
    assert isinstance(impatient, NoAnswer)
    assert called(patient) == PUBLIC
    assert patient.timings.dns_ms is not None
    assert place.names.asked("host.example") == 1
