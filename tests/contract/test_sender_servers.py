"""Our sender and aiohttp, against servers that people run: nginx, Go's net/http, Node's http, uvicorn."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trustme

from delivery_stream.decision import Answered, NoAnswer
from delivery_stream.sender import Sender
from tests.conformance import DEADLINE_S, Posts, conforms, ours_conforms
from tests.real_servers import KINDS, RealServer, build, certificates, serving

pytestmark = pytest.mark.timeout(600)  # the first use of Go compiles its library

Serve = Callable[[str, int], Any]


@pytest.fixture(scope="module")
def serve(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Starts one of them: a context manager."""
    folder = tmp_path_factory.mktemp("servers")
    certs = certificates(authority, folder)
    built: dict[str, str] = {}

    @contextmanager
    def start(kind: str, port: int) -> Iterator[RealServer]:
        if kind not in built:
            built[kind] = build(kind, folder)
        with serving(kind, built[kind], certs, tmp_path_factory.mktemp(kind), port) as server:
            yield server

    return start


@pytest.fixture(scope="module")
def running_servers(serve: Serve) -> Iterator[Callable[[str], RealServer]]:
    """Each is started when it is first asked for."""
    started: dict[str, RealServer] = {}
    with ExitStack() as at_end:

        def get(kind: str) -> RealServer:
            if kind not in started:
                started[kind] = at_end.enter_context(serve(kind, 0))
            return started[kind]

        yield get


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, running_servers: Callable[[str], RealServer]) -> RealServer:
    return running_servers(request.param)


@pytest.fixture(params=["plain", "TLS"])
def url(request: pytest.FixtureRequest, server: RealServer) -> str:
    return server.url if request.param == "plain" else server.tls_url()


async def sent(sender: Posts, url: str, body: bytes = b"hello", timeout_s: float = 10.0) -> Answered:
    outcome = await sender.post(url, [("webhook-id", "msg_1"), ("X-Own", "own")], body, timeout_s)
    assert isinstance(outcome, Answered), outcome
    return outcome


async def told(sender: Posts, url: str, body: bytes = b"hello") -> dict[str, Any]:
    """What the server says arrived."""
    outcome = await sent(sender, url + "/echo?a=b&c=%20d", body)
    assert outcome.status == 200
    arrived: dict[str, Any] = json.loads(outcome.body)
    return arrived


@pytest.mark.parametrize("body_bytes", [0, 1023, 2**22])
@conforms
async def test_the_request_arrives_whole(sender: Posts, url: str, body_bytes: int) -> None:
    body = bytes(range(256)) * (body_bytes // 256) + b"x" * (body_bytes % 256)
    arrived = await told(sender, url, body)
    assert (arrived["method"], arrived["target"]) == ("POST", "/echo?a=b&c=%20d")
    assert (arrived["bytes"], arrived["sha256"]) == (body_bytes, hashlib.sha256(body).hexdigest())
    headers = arrived["headers"]
    assert (headers["webhook-id"], headers["x-own"], headers["content-length"]) == ("msg_1", "own", str(body_bytes))
    assert headers["host"] == url.partition("://")[2]


@conforms
async def test_one_connection_serves_several_requests(sender: Posts, url: str) -> None:
    connections = {(await told(sender, url))["connection"] for _ in range(4)}
    assert len(connections) == 1


@ours_conforms
async def test_a_connection_that_the_server_ends_after_some_requests_costs_nothing(sender: Posts, url: str) -> None:
    """nginx ends them after five here; the others keep them."""
    outcomes = [await sent(sender, url + "/status/200") for _ in range(12)]
    assert {outcome.status for outcome in outcomes} == {200}
    assert isinstance(sender, Sender)
    assert sender.open_connections <= 2


@ours_conforms
async def test_connection_close_is_respected(sender: Posts, url: str) -> None:
    """aiohttp leaves its TLS farewell behind, as above."""
    for _ in range(2):
        assert (await sent(sender, url + "/close")).body == b"closed"
    if isinstance(sender, Sender):
        assert sender.idle_connections == 0


@conforms
async def test_chunks_are_put_together_and_the_connection_is_kept(sender: Posts, url: str) -> None:
    before = (await told(sender, url))["connection"]
    assert (await sent(sender, url + "/chunked")).body == b"one two three"
    assert (await told(sender, url))["connection"] == before


@conforms
async def test_a_status_is_the_answer_and_keeps_the_connection(sender: Posts, server: RealServer) -> None:
    for status in (200, 201, 202, 204, 304, 400, 401, 404, 410, 429, 500, 502, 503):
        outcome = await sent(sender, f"{server.url}/status/{status}")
        assert outcome.status == status
        assert outcome.body == (b"" if status in (204, 304) else f"status {status}".encode())
        assert outcome.retry_after_s == (7 if status in (429, 503) else 0)
        if isinstance(sender, Sender):
            assert sender.open_connections <= 1  # none once nginx has served five on one


@pytest.mark.parametrize("kind", ["go", "node"])
@conforms
async def test_interim_answers_are_not_the_answer(
    sender: Posts, running_servers: Callable[[str], RealServer], kind: str
) -> None:
    """103 of both, and 100 of Node; nginx and uvicorn send none."""
    for _ in range(2):
        outcome = await sent(sender, running_servers(kind).url + "/informational")
        assert (outcome.status, outcome.body) == (200, b"final")


@ours_conforms
async def test_an_early_answer_counts_and_the_next_request_has_its_own(sender: Posts, url: str) -> None:
    """413 before the body is read: the limit of nginx, and the same by hand."""
    outcome = await sender.post(url + "/early", [], b"x" * 2**22, 10.0)
    if isinstance(outcome, NoAnswer):
        # Who hangs up with bytes of ours unread resets the connection, and that may overtake the answer.
        assert outcome.error_class == "connection_reset"
    else:
        assert isinstance(outcome, Answered)
        assert outcome.status == 413
    assert (await told(sender, url, b"next"))["sha256"] == hashlib.sha256(b"next").hexdigest()


#: Where an answer goes wrong, and what it is called; None: its status counts.
HOSTILE = {"never": "timeout", "drip": "timeout", "cut": "connection_reset", "endless": None, "bomb": None}


@pytest.mark.parametrize("path", HOSTILE)
@conforms
async def test_an_answer_that_goes_wrong_ends_in_time(sender: Posts, server: RealServer, path: str) -> None:
    await goes_wrong(sender, server.url, path)


@pytest.mark.parametrize("path", HOSTILE)
@ours_conforms
async def test_an_answer_that_goes_wrong_ends_in_time_over_tls(sender: Posts, server: RealServer, path: str) -> None:
    """aiohttp says farewell to each server for up to 30 s here."""
    await goes_wrong(sender, server.tls_url(), path)


async def goes_wrong(sender: Posts, url: str, path: str) -> None:
    error_class = HOSTILE[path]
    outcome = await sender.post(f"{url}/{path}", [], b"hello", DEADLINE_S * 2 if error_class == "timeout" else 10.0)
    if error_class is None:
        assert isinstance(outcome, Answered), outcome
        assert outcome.status == 200
        # Nothing is unpacked, and no more is kept than is of use.
        assert (outcome.body[:2] == b"\x1f\x8b") == (path == "bomb")
        assert len(outcome.body) <= 8192
    else:
        assert isinstance(outcome, NoAnswer), outcome
    if isinstance(sender, Sender):
        assert getattr(outcome, "error_class", None) == error_class
        if path != "bomb":  # which is small as it comes
            await none_open(sender)


@conforms
async def test_ipv6_is_spoken(sender: Posts, server: RealServer) -> None:
    assert (await told(sender, server.url_v6))["headers"]["host"] == f"[::1]:{server.port}"


@conforms
async def test_many_at_once(sender: Posts, url: str) -> None:
    arrived = await asyncio.gather(*(told(sender, url, str(number).encode()) for number in range(100)))
    expected = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100)]
    assert [one["sha256"] for one in arrived] == expected


#: "sni": without the name, a certificate for another one. uvicorn shows the same one to everybody.
TLS_FAULTS = [
    (kind, identity, said)
    for kind in KINDS
    for identity, said in (("expired", "expired"), ("wrong host", "mismatch"), ("self-signed", "self-signed"))
] + [(kind, "sni", "mismatch") for kind in KINDS if kind != "uvicorn"]


@pytest.mark.parametrize(("kind", "identity", "said"), TLS_FAULTS)
@conforms
async def test_a_certificate_that_does_not_hold_ends_the_post(
    sender: Posts, running_servers: Callable[[str], RealServer], kind: str, identity: str, said: str
) -> None:
    outcome = await sender.post(running_servers(kind).tls_url(identity) + "/echo", [], b"hello", 10.0)
    assert isinstance(outcome, NoAnswer), outcome
    assert outcome.error_class == "tls_failed"
    if isinstance(sender, Sender):
        assert outcome.details.startswith("certificate: ")
        assert said in outcome.details
        await none_open(sender)


@conforms
async def test_the_certificate_is_the_one_of_the_name_that_was_asked_for(sender: Posts, server: RealServer) -> None:
    """On a port that shows another certificate to who sends no SNI."""
    identity = "good" if server.kind == "uvicorn" else "sni"
    arrived = await told(sender, server.tls_url(identity, "localhost"))
    assert arrived["headers"]["host"] == f"localhost:{server.tls_ports[identity]}"


@ours_conforms
async def test_tls_is_negotiated_once_and_its_time_is_told(sender: Posts, server: RealServer) -> None:
    first, second = [(await sent(sender, server.tls_url() + "/echo")).timings for _ in range(2)]
    assert first.address == second.address == "127.0.0.1"
    assert None not in (first.connect_ms, first.tls_ms, first.first_byte_ms)
    assert first.connect_ms + first.tls_ms <= first.first_byte_ms <= first.total_ms  # type: ignore[operator]
    assert (second.connect_ms, second.tls_ms) == (None, None)
    assert first.sent_bytes == second.sent_bytes
    assert first.received_bytes is not None
    assert first.received_bytes > 200


@pytest.mark.parametrize("kind", KINDS)
@ours_conforms
async def test_a_server_that_was_restarted_is_found_again(sender: Posts, serve: Serve, kind: str) -> None:
    """Its end closes the connection that we kept; or we notice when it dies under the next request."""
    with serve(kind, 0) as server:
        await sent(sender, server.url + "/status/200")
    gone = await sender.post(server.url + "/status/200", [], b"", 5.0)
    assert isinstance(gone, NoAnswer)
    assert gone.error_class == "connect_failed"
    with serve(kind, server.port) as again:
        assert (await sent(sender, again.url + "/status/200")).timings.connect_ms is not None


async def none_open(sender: Sender) -> None:
    """The connection is closed and not kept."""
    assert sender.idle_connections == 0
    async with asyncio.timeout(5):
        while sender.open_connections:  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0.005)
