"""The sender's conformance suites run over our sender, on uvloop and on asyncio's loop, and over aiohttp.

Where a receiver breaks the rules the two may name it differently: our word is pinned, of the reference only that the
post ended in time without an answer.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from typing import Any, Protocol

import pytest
import uvloop

from delivery_stream.decision import Answered, NoAnswer, Refused
from delivery_stream.sender import Heard, Sender, _Ended
from tests.reference_sender import ReferenceSender

#: Longer than anything on loopback takes, short enough to be waited for.
DEADLINE_S = 0.2


class Posts(Protocol):
    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answered | NoAnswer | Refused: ...

    async def close(self) -> None: ...


class HasUrl(Protocol):
    """A server."""

    @property
    def url(self) -> str: ...


MakeSender = Callable[[ssl.SSLContext], Posts]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
ASYNCIO, UVLOOP = asyncio.new_event_loop, uvloop.new_event_loop


_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class InSteps(Sender):
    """Our sender as `delivery_stream.requests` uses it, with each connection opened before: the callback hears all."""

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answered | NoAnswer | Refused:
        made = self.make(url, headers, body, timeout_s)
        if isinstance(made, Refused):
            return made
        heard: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        if not self.post_soon(made, heard.set_result):
            try:
                connection = await self._connect(made)
            except _Ended as ended:
                return ended.outcome
            connection.reusable = True
            self._pool.put(connection)
            sent = self.post_soon(made, heard.set_result)
            assert sent
        outcome = await heard
        assert not isinstance(outcome, Exception), outcome
        return await self.post_anew(made) if outcome is None else outcome


def ours(trusting: ssl.SSLContext) -> Posts:
    return Sender(_LOOPBACK, tls=trusting)


def ours_in_steps(trusting: ssl.SSLContext) -> Posts:
    return InSteps(_LOOPBACK, tls=trusting)


_OURS: dict[str, tuple[NewLoop, MakeSender]] = {
    "ours": (UVLOOP, ours),
    "ours-asyncio": (ASYNCIO, ours),
    "in-steps": (UVLOOP, ours_in_steps),
    "in-steps-asyncio": (ASYNCIO, ours_in_steps),
}


def conforms(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test for our sender, both ways and on both loops, and for the reference, each on a loop of its own."""
    return _on_loops(test, _OURS | {"aiohttp": (UVLOOP, ReferenceSender)})


def awaited_conforms(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The same without the steps: what cannot be, where no task waits and every connection is one that was kept."""
    awaited = {name: variant for name, variant in _OURS.items() if variant[1] is ours}
    return _on_loops(test, awaited | {"aiohttp": (UVLOOP, ReferenceSender)})


def ours_conforms(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test for our sender, both ways and on both loops; the reference is known to be less strict here."""
    return _on_loops(test, _OURS)


def _on_loops(
    test: Callable[..., Awaitable[None]], variants: dict[str, tuple[NewLoop, MakeSender]]
) -> Callable[..., None]:
    async def whole(make: MakeSender, arguments: dict[str, Any]) -> None:
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and knows no authority but ours
        arguments["authority"].configure_trust(trusting)
        sender = make(trusting)
        try:
            await test(sender, **{name: arguments[name] for name in wanted})
        finally:
            await sender.close()

    def run(variant: str, **arguments: Any) -> None:
        new_loop, make = variants[variant]
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(whole(make, arguments))

    wanted = list(inspect.signature(test).parameters)[1:]
    names = dict.fromkeys(["variant", "authority", *wanted])
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    vars(run).update(__signature__=inspect.Signature(parameters))
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    pytest.mark.parametrize("variant", variants)(run)
    return run


async def post(
    sender: Posts, url: str, body: bytes = b"hello", timeout_s: float = 5.0
) -> Answered | NoAnswer | Refused:
    return await sender.post(url + "/hook?a=b", [("webhook-id", "msg_1"), ("X-Own", "ü")], body, timeout_s)


async def answered(sender: Posts, server: HasUrl, status: int = 200) -> Answered:
    outcome = await post(sender, server.url)
    assert isinstance(outcome, Answered), outcome
    assert outcome.status == status
    return outcome


async def failed(sender: Posts, url: str, error_class: str, timeout_s: float = DEADLINE_S, body: bytes = b"hi") -> None:
    started_s = time.monotonic()
    outcome = await post(sender, url, body, timeout_s)
    assert time.monotonic() - started_s < timeout_s + 0.7  # a busy machine's turn of the loop included
    assert isinstance(outcome, NoAnswer), outcome
    if isinstance(sender, Sender):
        assert outcome.error_class == error_class, outcome
        assert len(outcome.details) <= 500
        assert outcome.details.isascii()
        assert outcome.details.isprintable()
