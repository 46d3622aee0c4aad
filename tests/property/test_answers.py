"""Whatever bytes come back, however cut: an outcome by the deadline, no exception, and never another's answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from delivery_stream.connection import BODY_KEPT_BYTES, Broken, Connection, Reply
from delivery_stream.connection_pool import ConnectionPool
from delivery_stream.decision import Answered, NoAnswer
from delivery_stream.sender import Heard, Post, Sender
from tests.conformance import InSteps
from tests.wire_server import Wire, WireServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#: Made once: reading the machine's authorities takes longer than an example.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ERRORS = {"timeout", "connection_reset", "bad_response"}

versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1 ", b"HTTP/2", b"HTTP/0.9", b"http/1.1", b"ICY"])
statuses = st.sampled_from([b"", *b"200 204 304 500 503 100 101 103 099 999 2x0".split()])
NAMES = b"Content-Length content-length Transfer-Encoding Connection Retry-After Upgrade Trailer X-A"
VALUES = b"0 2 5 05 +5 -1 5,5 18446744073709551616 chunked gzip,chunked identity close keep-alive upgrade h2c \xff"
names = st.sampled_from([*NAMES.split(), b"", b" X", b"X ", b"X\x00"])
values = st.sampled_from([*VALUES.split(), b"", b"a\x00b", b"Fri, 31 Dec 9999 23:59:59 GMT"])
headers = st.lists(st.tuples(names, values), max_size=4).map(
    lambda pairs: b"".join(name + b": " + value + b"\r\n" for name, value in pairs)
)
CHUNKED = [b"2\r\nok\r\n0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"2;x=y\r\nok\r\n0\r\n\r\n", b"2\nok\n0\n\n"]
bodies = st.sampled_from([b"", b"ok", b"hello", b"fffffffff\r\n", b"-2\r\nok\r\n", b"x" * 9000, OK, *CHUNKED])
answers = st.builds(
    lambda version, status, head, body: version + b" " + status + b" Reason\r\n" + head + b"\r\n" + body,
    *(versions, statuses, headers, bodies),
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Answers in a row, with pieces cut out and put in."""
    text = b"".join(draw(st.lists(answers, min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 8)))
        text = text[:at] + draw(st.binary(max_size=4)) + text[end:]
    return text


anything = st.one_of(answers, mangled(), st.binary(max_size=300), st.just(OK))
endings = st.sampled_from(["open", "end", "reset"])


@st.composite
def in_pieces(draw: st.DrawFn) -> tuple[bytes, ...]:
    text = draw(anything)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return tuple(text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if start < end)


class Fed(asyncio.Transport):
    """A transport whose other end answers each request at once, with the next of these, and then does as told."""

    def __init__(self, connection: Connection, script: list[tuple[tuple[bytes, ...], str]]) -> None:
        super().__init__()
        self._connection, self._script, self.closed = connection, script, False

    def write(self, data: object) -> None:
        asyncio.get_running_loop().call_soon(self._answer, *self._script.pop(0))

    def _answer(self, pieces: tuple[bytes, ...], ending: str) -> None:
        for piece in pieces:
            if not self.closed:
                self._connection.data_received(piece)
        if ending == "end" and not self.closed:
            self._connection.eof_received()
        if ending != "open":
            self._lose(ConnectionResetError() if ending == "reset" else None)

    def abort(self) -> None:
        self._lose(None)

    def get_write_buffer_size(self) -> int:
        return 0

    def _lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._connection.connection_lost(error)


class Impatient(asyncio.SelectorEventLoop):
    """When there is nothing to do until a timer's time, it is that time."""

    _skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self._skipped_s

    def _run_once(self) -> None:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready:  # type: ignore[attr-defined]
            due_s = min((handle.when() for handle in scheduled if not handle.cancelled()), default=0.0)
            self._skipped_s += max(due_s - self.time(), 0.0)
        super()._run_once()  # type: ignore[misc]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner(loop_factory=Impatient) as running:
        yield running


def exchanged(runner: asyncio.Runner, *script: tuple[tuple[bytes, ...], str]) -> tuple[list[Reply | Broken], bool]:
    """What came of as many exchanges on one connection as it takes, and whether it was given up after the last."""

    async def run() -> tuple[list[Reply | Broken], bool]:
        connection = Connection(("http", "host", 80), "192.0.2.1", lambda _made: None, lambda _lost: None)
        transport = Fed(connection, list(script))
        connection.connection_made(transport)
        outcomes = [await connection.exchange(b"POST", 10.0)]
        while connection.reusable and len(outcomes) < len(script):
            outcomes.append(await connection.exchange(b"POST", 10.0))
        assert connection.reusable or transport.closed
        return outcomes, transport.closed

    return runner.run(run())


def shown(outcome: Reply | Broken) -> tuple[object, ...]:
    """Without its time and its words."""
    if isinstance(outcome, Reply):
        return outcome.status, outcome.retry_after, outcome.body
    return outcome.error_class, outcome.unanswered


@settings(max_examples=200)
@given(in_pieces(), endings)
@example((b"HTTP/1.1 200 OK\r\n\r\n",), "end")
@example((b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",), "open")
def test_any_bytes_come_to_an_outcome(runner: asyncio.Runner, pieces: tuple[bytes, ...], ending: str) -> None:
    (outcome,), _closed = exchanged(runner, (pieces, ending))
    if isinstance(outcome, Reply):
        assert 200 <= outcome.status <= 999
        assert len(outcome.body) <= BODY_KEPT_BYTES
    else:
        assert outcome.error_class in ERRORS
        assert outcome.details.isascii()
        assert outcome.details.isprintable()
        assert len(outcome.details) <= 500
        # A second POST is made for this one alone: not a byte of an answer had come.
        assert outcome.unanswered == (not pieces and outcome.error_class == "connection_reset")


@settings(max_examples=150)
@given(anything, st.data())
def test_the_outcome_does_not_depend_on_how_the_network_cuts_it(
    runner: asyncio.Runner, text: bytes, data: st.DataObject
) -> None:
    ending = data.draw(endings)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if start < end]
    bytewise = tuple(text[at : at + 1] for at in range(len(text)))
    whole, cut, single = (
        shown(exchanged(runner, (tuple(how), ending))[0][0]) for how in (([text] if text else []), pieces, bytewise)
    )
    assert whole == cut == single


@settings(max_examples=200)
@given(in_pieces())
def test_a_kept_connection_gives_the_next_its_own_answer(runner: asyncio.Runner, pieces: tuple[bytes, ...]) -> None:
    """However one answer ended, nothing of it is taken for the next: the connection is clean or closed."""
    outcomes, closed = exchanged(runner, (pieces, "open"), ((OK,), "open"))
    if len(outcomes) == 2:
        event("kept")
        assert shown(outcomes[1]) == (200, None, b"ok")
    else:
        assert closed


@pytest.mark.parametrize("pieces", [(OK,), (OK[:10], OK[10:]), tuple(OK[at : at + 1] for at in range(len(OK)))])
def test_a_connection_is_kept_after_an_answer_and_nothing_else(
    runner: asyncio.Runner, pieces: tuple[bytes, ...]
) -> None:
    assert len(exchanged(runner, (pieces, "open"), ((OK,), "open"))[0]) == 2
    assert len(exchanged(runner, ((*pieces, b"H"), "open"), ((OK,), "open"))[0]) == 1


# In steps: the pool has the connection again while the transport still tells of what came


class Steps(NamedTuple):
    """What was heard of one post and of the next, each time it was told; ``kept``: that one had the same connection."""

    first: list[Heard]
    second: list[Heard]
    kept: bool


def in_steps(runner: asyncio.Runner, pieces: tuple[bytes, ...], ending: str, *, at_once: bool = False) -> Steps:
    """``at_once``: the next is posted by who hears of the first, if it can be."""

    async def run() -> Steps:
        pool = ConnectionPool()
        sender = Sender(pool=pool, tls=NO_TLS)
        connection = pool.new(("http", "host", 80), "192.0.2.1")
        transport = Fed(connection, [(pieces, ending), ((OK,), "open")])
        connection.connection_made(transport)
        connection.reusable = True
        pool.put(connection)
        steps = Steps([], [], False)
        heard = asyncio.Event()

        def post(told: Callable[[Heard], None]) -> bool:
            made = sender.make("http://host/", [], b"x", 10.0)
            assert isinstance(made, Post)
            return sender.post_soon(made, told)

        def told(outcome: Heard) -> None:
            nonlocal steps
            steps.first.append(outcome)
            if at_once:
                steps = steps._replace(kept=post(steps.second.append))
            heard.set()

        assert post(told)
        await heard.wait()
        if not at_once:
            steps = steps._replace(kept=post(steps.second.append))
        await asyncio.sleep(30)  # every deadline is over
        assert (sender.open_connections, sender.idle_connections) in ((1, 1), (0, 0))
        assert transport.closed == (sender.open_connections == 0)
        await sender.close()
        return steps

    faults: list[dict[str, object]] = []
    runner.get_loop().set_exception_handler(lambda _loop, fault: faults.append(fault))
    steps = runner.run(run())
    assert faults == []
    return steps


@settings(max_examples=200)
@given(in_pieces(), endings)
@example((OK,), "open")
@example((OK, b"H"), "open")
@example((), "reset")
def test_in_steps_any_bytes_are_told_once_and_as_they_are_to_who_waits(
    runner: asyncio.Runner, pieces: tuple[bytes, ...], ending: str
) -> None:
    steps = in_steps(runner, pieces, ending)
    (first,) = steps.first
    (awaited,), _closed = exchanged(runner, (pieces, ending))
    if isinstance(awaited, Reply):
        assert isinstance(first, Answered)
        assert (first.status, first.body) == (awaited.status, awaited.body)
    elif awaited.unanswered:
        assert first is None
    else:
        assert isinstance(first, NoAnswer)
        assert (first.error_class, first.details) == (awaited.error_class, awaited.details)
    if steps.kept:
        event("kept")
        (second,) = steps.second
        assert isinstance(second, Answered)
        assert (second.status, second.body) == (200, b"ok")
        # The answer was whole, and nothing but it: it is not without its last byte, nor with one more.
        text = b"".join(pieces)
        assert not in_steps(runner, (text[:-1],), ending).kept
        assert not in_steps(runner, (text + b"H",), ending).kept
    else:
        assert steps.second == []


@settings(max_examples=100)
@given(in_pieces(), endings)
@example((OK,), "reset")
@example((OK, OK), "open")
@example((b"HTTP/1.1 200 OK\r\n\r\n",), "end")
def test_in_steps_the_next_may_be_posted_by_who_hears(
    runner: asyncio.Runner, pieces: tuple[bytes, ...], ending: str
) -> None:
    steps = in_steps(runner, pieces, ending, at_once=True)
    assert len(steps.first) == 1
    assert len(steps.second) == steps.kept
    if steps.kept:  # the answer was whole without the end of the connection
        assert isinstance(in_steps(runner, pieces, "open").first[0], Answered)
    assert not any(isinstance(heard, Exception) for heard in steps.first + steps.second)


@pytest.mark.parametrize("way", [Sender, InSteps])
@pytest.mark.timeout(120)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=in_pieces(), ending=st.sampled_from(["hang_up", "reset", "stay"]))
def test_over_a_socket_as_well(way: type[Sender], pieces: tuple[bytes, ...], ending: str) -> None:
    async def behave(wire: Wire) -> None:
        await wire.request()
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0)
        if ending == "hang_up":
            await wire.hang_up()
        elif ending == "reset":
            wire.reset()

    async def run() -> None:
        sender = way([ip_network("127.0.0.0/8")])
        async with WireServer(behave) as server:
            outcome = await sender.post(server.url, [], b"x", 0.05 if ending == "stay" else 5.0)
            assert isinstance(outcome, Answered | NoAnswer)
            if isinstance(outcome, NoAnswer):
                assert outcome.error_class in ERRORS
            else:
                assert 0 <= outcome.retry_after_s <= 86_400
            assert outcome.timings.sent_bytes is not None
            assert outcome.timings.received_bytes is not None
            assert outcome.timings.received_bytes <= sum(map(len, pieces))
        await sender.close()
        assert sender.open_connections == 0

    asyncio.run(run())
