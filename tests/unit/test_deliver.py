"""A delivery's request, in one go and in steps: what is prepared, and what its answer comes to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from delivery_stream.decision import (
    Answered,
    InternalError,
    NoAnswer,
    NoSubscription,
    NotActive,
    Outcome,
    Refused,
    StoresUnreachable,
    TooOld,
)
from delivery_stream.deliver import DeliverIO, Ended, Prepared, deliver, post_anew, post_soon, prepare
from delivery_stream.sender import Heard, Post, Sender
from shared.records import Delivery
from shared.subscriptions import Absent, Found, Subscription, Unreachable
from tests.unit.examples import NOW_MS, deliver_io, delivery, subscription

SECRET = "a secret that is long enough"


class Known:
    """What is in memory."""

    postgres_trouble = ""

    def __init__(self, found: Found | Absent | None) -> None:
        self._found = found

    def peek(self, _subscription_id: str) -> Found | Absent | None:
        return self._found

    async def get(self, _subscription_id: str) -> Found | Absent | Unreachable:
        return self._found or Unreachable()


class Scripted(Sender):
    """Nothing goes out: what comes back is what a test says."""

    def __init__(self, comes: Answered | NoAnswer | Exception | None) -> None:
        super().__init__(excepted_urls=["http://127.0.0.1:9/fine"])
        self._comes = comes
        self.posted: list[tuple[str, dict[str, str], bytes, float]] = []

    def post_soon(self, post: Post, told: Callable[[Heard], None]) -> bool:
        told(self._comes)
        return True

    async def post_anew(self, post: Post) -> Answered | NoAnswer:
        if isinstance(self._comes, Answered | NoAnswer):
            return self._comes
        raise self._comes or KeyError()

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answered | NoAnswer | Refused:
        self.posted.append((url, dict(headers), body, timeout_s))
        return await super().post(url, headers, body, timeout_s)


def io_of(found: Found | Absent | None, comes: Answered | NoAnswer | Exception | None = None) -> DeliverIO:
    async def publish(_records: object) -> None:
        raise AssertionError("nothing is to be published")

    return deliver_io(publish, subscriptions=Known(found), sender=Scripted(comes))


class Stored(Known):
    """What is in a store, and not in memory."""

    def peek(self, _subscription_id: str) -> None:
        return None


def io_of_stored(one: Subscription, sender: Sender) -> DeliverIO:
    return replace(io_of(None), subscriptions=Stored(Found(one)), sender=sender)


def prepared(io: DeliverIO) -> Prepared:
    found = prepare(delivery(), io)
    assert found is not None
    return found


def test_the_request_of_what_is_known_is_made_whole() -> None:
    found = prepared(io_of(Found(subscription(target_url="http://example.com:8080/hook"))))
    head, _, body = found.post.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook HTTP/1.1\r\nHost: example.com:8080\r\n")
    assert b"\r\nwebhook-signature: v1," in head
    assert (body, found.post.target.origin) == (b'{"a":1}', ("http", "example.com", 8080))
    assert found.started_ms == NOW_MS
    assert 9 < found.post.left_s() <= 10


def test_a_subscription_may_have_a_deadline_of_its_own() -> None:
    assert 2 < prepared(io_of(Found(subscription(timeout_seconds=3.0)))).post.left_s() <= 3


@pytest.mark.parametrize(
    ("found", "one", "outcome"),
    [
        (None, delivery(), StoresUnreachable()),
        (Absent(), delivery(), NoSubscription()),
        (Found(subscription(status="paused")), delivery(), NotActive("paused")),
        (Found(subscription(status="disabled")), delivery(), NotActive("disabled")),
        (Found(subscription()), delivery(accepted_ms=NOW_MS - 2 * 3_600_000), TooOld()),
        (Found(subscription(headers=(("Host", "other"),))), delivery(), "bad_header"),
        (Found(subscription(target_url="http://127.0.0.1:9/other")), delivery(), "blocked"),
        (Found(subscription(signing_keys=None)), delivery(), InternalError("TypeError")),
    ],
    ids=["unknown", "deleted", "paused", "disabled", "old", "header", "own-port", "bug"],
)
async def test_what_has_no_request_is_not_prepared_and_delivering_it_tells_why(
    found: Found | Absent | None, one: Delivery, outcome: Outcome | str
) -> None:
    assert prepare(one, io_of(found)) is None
    told = (await deliver(one, io_of(found))).outcome
    assert (told.reason if isinstance(told, Refused) else told) == outcome


@pytest.mark.parametrize(("paused_hours", "is_old"), [(0, True), (0.9, True), (1.1, False)])
def test_a_pause_does_not_count_for_the_age(paused_hours: float, is_old: bool) -> None:
    one = delivery(accepted_ms=NOW_MS - 2 * 3_600_000, paused_ms=int(paused_hours * 3_600_000))
    assert (prepare(one, io_of(Found(subscription()))) is None) == is_old


@pytest.mark.parametrize(
    ("comes", "outcome"),
    [
        (Answered(200), Answered(200)),
        (Answered(500, body=b"you said " + SECRET.encode()), Answered(500, body=b"you said ***")),
        (NoAnswer("timeout"), NoAnswer("timeout")),
        (NoAnswer("bad_response", f"not HTTP: {SECRET}"), NoAnswer("bad_response", "not HTTP: ***")),
    ],
    ids=["answered", "answered with a secret", "timed out", "no HTTP, with a secret"],
)
async def test_what_is_not_in_memory_is_delivered_in_one_go_and_told_without_our_secrets(
    comes: Answered | NoAnswer, outcome: Outcome
) -> None:
    one = subscription(headers=(("X-Key", SECRET),), timeout_seconds=3.0)
    sender = Scripted(comes)
    io = io_of_stored(one, sender)
    assert prepare(delivery(), io) is None
    assert await deliver(delivery(), io) == Ended(delivery(), one, outcome, NOW_MS)
    [(url, headers, body, timeout_s)] = sender.posted
    assert (url, body, timeout_s) == (one.target_url, delivery().payload, 3.0)
    assert headers["X-Key"] == SECRET
    assert headers["webhook-signature"].startswith("v1,")


async def test_what_is_delivered_in_one_go_has_the_deadline_of_everybody_unless_its_own() -> None:
    sender = Scripted(Answered(200))
    await deliver(delivery(), io_of_stored(subscription(), sender))
    assert [timeout_s for *_, timeout_s in sender.posted] == [10]


async def test_our_own_fault_in_one_go_is_an_outcome_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    one = subscription()
    with caplog.at_level(logging.ERROR):
        ended = await deliver(delivery(), io_of_stored(one, Scripted(KeyError("a bug"))))
    assert ended == Ended(delivery(), one, InternalError("KeyError"), NOW_MS)
    assert [record.message for record in caplog.records] == ["internal error"]


def test_what_a_receiver_says_is_heard_without_our_secrets() -> None:
    known = Found(subscription(headers=(("X-Key", SECRET),)))
    io, heard = io_of(known, Answered(500, body=b"you said " + SECRET.encode())), list[Ended | None]()
    assert post_soon(prepared(io), io, heard.append)
    assert heard == [Ended(delivery(), known.subscription, Answered(500, body=b"you said ***"), NOW_MS)]


def test_a_cut_connection_is_passed_on() -> None:
    io, heard = io_of(Found(subscription())), list[Ended | None]()
    assert post_soon(prepared(io), io, heard.append)
    assert heard == [None]


async def test_our_own_faults_are_outcomes_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    io, heard = io_of(Found(subscription()), KeyError("a bug")), list[Ended | None]()
    with caplog.at_level(logging.ERROR):
        assert post_soon(prepared(io), io, heard.append)
        heard.append(await post_anew(prepared(io), io))
    assert [one.outcome for one in heard if one] == [InternalError("KeyError")] * 2
    assert [record.message for record in caplog.records] == ["internal error"] * 2


async def test_what_cannot_be_masked_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr("delivery_stream.deliver.without_secrets", fails)
    io, heard = io_of(Found(subscription()), Answered(200, body=b"ok")), list[Ended | None]()
    assert post_soon(prepared(io), io, heard.append)
    assert [one.outcome for one in [*heard, await post_anew(prepared(io), io)] if one] == [
        InternalError("KeyError")
    ] * 2
