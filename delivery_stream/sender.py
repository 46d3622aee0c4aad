"""The only outbound HTTP of Hooklog: one POST in, one outcome out; nothing above this file catches network errors.

One deadline covers lookup, connect, TLS, sending and the last byte of the answer. Every address of the host is vetted,
and the vetted one is what we connect to; `Host`, SNI and the certificate keep the name. Redirects are answers, there
are no cookies, and nothing is decompressed.

What a `NoAnswer` may be called:

| error_class        | meaning                                                                              |
|--------------------|--------------------------------------------------------------------------------------|
| `dns_failed`       | the name has no address, or none was found before the deadline                       |
| `connect_failed`   | no address of the host took the connection                                           |
| `connect_timeout`  | the deadline passed while connecting or negotiating TLS                               |
| `tls_failed`       | no TLS with this host: certificate, name, protocol                                   |
| `timeout`          | connected, but no whole answer before the deadline                                   |
| `connection_reset` | the connection ended before the whole answer                                         |
| `bad_response`     | what came is not HTTP/1, or its head is beyond every measure                         |

A body that is too large is no error: the status has been read, which is the answer. We hang up and report it.
What a `Refused` may be called: `blocked` (the address), `bad_url`, `bad_header` (nothing was sent).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from time import monotonic

from delivery_stream.connection import Broken, Connection, Reply, describe
from delivery_stream.connection_pool import ConnectionPool
from delivery_stream.decision import Answered, NoAnswer, Refused, Timings, retry_after_s
from delivery_stream.name_servers import NameServers
from delivery_stream.request_bytes import BadHeader, request_bytes
from delivery_stream.resolver import Resolved, Resolver, Unresolved
from shared.address import Address, Network, permitted, read_address, unwrap
from shared.clock import Clock, SystemClock
from shared.target_url import Target, parse_target

#: Of a host's addresses, how many of each IP version are tried.
ADDRESSES_MAX = 2
#: What the machine or this process lacks: errors that tell nothing of the endpoint.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_DESCRIPTOR_POLL_S = 0.05

#: What `post_soon` tells: the outcome; a fault of ours; or None, when the connection ended without a byte of an answer
#: and `post_anew` must follow, which is the second time.
Heard = Answered | NoAnswer | Exception | None


class Sender:
    """Posts for many at once; connections are kept and reused per origin.

    ``refused_endpoints`` are (address, port) pairs that are never called, whatever is allowed: the stack's own. One on
    loopback stands for all of loopback. ``excepted_urls`` may be called there nevertheless, spelled exactly so.
    """

    def __init__(
        self,
        allowed_networks: Iterable[Network] = (),
        refused_endpoints: Collection[tuple[str, int]] = (),
        excepted_urls: Collection[str] = (),
        *,
        resolver: Resolver | None = None,
        pool: ConnectionPool | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._allowed_networks = tuple(allowed_networks)
        self._refused_endpoints = frozenset((_place(read_address(host)), port) for host, port in refused_endpoints)
        self._excepted_urls = frozenset(excepted_urls)
        self._excepted_origins = frozenset(parse_target(url).origin for url in excepted_urls)
        self._resolver = resolver or Resolver(NameServers())
        self._pool = pool or ConnectionPool()
        self._tls = tls or ssl.create_default_context()
        self._clock = clock or SystemClock()

    @property
    def open_connections(self) -> int:
        return self._pool.open

    @property
    def idle_connections(self) -> int:
        return self._pool.idle

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answered | NoAnswer | Refused:
        """What came of one POST. Raises CancelledError, which closes the connection in use, and OSError: we have no
        descriptor for a connection, and got none within half of the time that was left.

        A request is sent a second time only when it went out on a connection kept from before, and that ended without
        a single byte of an answer: the receiver had hung up already, and most likely never saw it.
        """
        post = self.make(url, headers, body, timeout_s)
        if isinstance(post, Refused):
            return post
        await asyncio.sleep(0)  # each step for many in a row (docs/decisions/0011)
        connection = self._pool.take(post.target.origin)
        if connection is not None:
            reply = await self._exchange(connection, post)
            if isinstance(reply, Reply) or not reply.unanswered:
                return self._outcome(reply, post)
        return await self.post_anew(post)

    # The same in steps, for who has thousands under way: a task for each would cost more (docs/decisions/0016).

    def make(self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float) -> Post | Refused:
        """The request, whose time runs from now on."""
        try:
            target, request = request_bytes(url, headers, body)
        except ValueError as error:
            return Refused("bad_header" if isinstance(error, BadHeader) else "bad_url", str(error))
        if target.origin in self._excepted_origins and url not in self._excepted_urls:
            # Before the pool: a kept connection was vetted for the excepted URL only.
            return Refused("blocked", "the host and port are Hooklog's own")
        return Post(target, request, timeout_s)

    def post_soon(self, post: Post, told: Callable[[Heard], None]) -> bool:
        """Send it on a connection kept from before. False: there is none, `post_anew` must follow.

        ``told`` hears what came of it, once, later, and must not raise.
        """
        try:
            connection = self._pool.take(post.target.origin)
            if connection is None:
                return False
            post.on(connection)
            connection.send(post.request, post.left_s(), partial(self._heard, connection, post, told))
        except Exception as error:  # noqa: BLE001 - it is told
            asyncio.get_running_loop().call_soon(told, error)
        return True

    async def post_anew(self, post: Post) -> Answered | NoAnswer | Refused:
        """Send it on a new connection, within what is left of its time. Raises as `post` does."""
        try:
            connection = await self._connect(post)
        except _Ended as ended:
            return ended.outcome
        return self._outcome(await self._exchange(connection, post), post)

    async def close(self) -> None:
        """Cuts every connection; a post under way, or one that still comes, ends as a `NoAnswer`.

        One without a task of whose answer no byte had come hears None, and its `post_anew` ends so.
        """
        await self._resolver.close()
        await self._pool.close()

    async def _exchange(self, connection: Connection, post: Post) -> Reply | Broken:
        post.on(connection)
        reply = await connection.exchange(post.request, post.left_s())
        self._over(connection, post)
        return reply

    def _heard(self, connection: Connection, post: Post, told: Callable[[Heard], None], reply: Reply | Broken) -> None:
        heard: Heard
        try:
            self._over(connection, post)
            heard = None if isinstance(reply, Broken) and reply.unanswered else self._outcome(reply, post)
        except Exception as error:  # noqa: BLE001 - it is told
            heard = error
        told(heard)

    def _over(self, connection: Connection, post: Post) -> None:
        post.received_bytes = connection.received_bytes
        if connection.reusable:
            self._pool.put(connection)

    def _outcome(self, reply: Reply | Broken, post: Post) -> Answered | NoAnswer:
        timings = post.timings(reply.first_byte_s)
        if isinstance(reply, Broken):
            return NoAnswer(reply.error_class, reply.details, timings)
        wait_s = retry_after_s(reply.retry_after, self._clock.now_ms()) if reply.retry_after else 0.0
        return Answered(reply.status, wait_s, reply.body, timings)

    # The way to a new connection. Each step raises _Ended when it is the last.

    async def _connect(self, post: Post) -> Connection:
        addresses = _to_try(self._vet(await self._addresses(post), post))
        started_s = monotonic()
        for tried, address in enumerate(addresses, 1):
            connecting = await _new_socket(address, post.left_s() / 2)
            # A dead address must not eat the time of the next.
            share_s = post.left_s() / (len(addresses) - tried + 1)
            try:
                async with asyncio.timeout(share_s):
                    connected = await _connected(connecting, address, post.target.port)
            except TimeoutError:
                failure = post.failed("connect_timeout", f"{address} did not answer")
            except OSError as error:
                failure = post.failed("connect_failed", f"{address}: {describe(error)}")
            else:
                post.connect_ms = _ms_since(started_s)
                return await self._open(connected, str(address), post)
        raise failure

    async def _addresses(self, post: Post) -> Sequence[Address]:
        """At least one."""
        try:
            return (read_address(post.target.host),)
        except ValueError:
            pass
        started_s = monotonic()
        answer: Resolved | Unresolved
        try:
            async with asyncio.timeout(post.left_s()):
                answer = await self._resolver.resolve(post.target.host)
        except TimeoutError:
            answer = Unresolved("no answer in time")
        post.dns_ms = _ms_since(started_s)
        if isinstance(answer, Unresolved):
            raise post.failed("dns_failed", answer.details)
        return answer.addresses

    def _vet(self, addresses: Sequence[Address], post: Post) -> Sequence[Address]:
        """All of them or none: a name that has one address we refuse is not to be trusted with the others."""
        for address in addresses:
            if not permitted(address, self._allowed_networks):
                # The address stays unsaid: what a name means inside our network is not for the subscriber to learn.
                raise post.refused("the host's address is not public")
            own = (_place(address), post.target.port) in self._refused_endpoints
            if own and post.target.origin not in self._excepted_origins:
                raise post.refused("the host and port are Hooklog's own")
        return addresses

    async def _open(self, connected: socket.socket, address: str, post: Post) -> Connection:
        target, tls = post.target, post.target.scheme == "https"
        started_s = monotonic()
        try:
            async with asyncio.timeout(post.left_s()):
                _transport, connection = await asyncio.get_running_loop().create_connection(
                    lambda: self._pool.new(target.origin, address), sock=connected
                )
                if tls:
                    await connection.secure(self._tls, target.host)
        except TimeoutError:
            raise post.failed("connect_timeout", "no TLS in time") from None
        except OSError as error:
            raise post.failed("tls_failed" if tls else "connect_failed", describe(error)) from None
        if tls:
            post.tls_ms = _ms_since(started_s)
        return connection


class Post:
    """One request, its deadline, and what is known of it so far."""

    __slots__ = (
        "_ends_s",
        "_started_s",
        "address",
        "connect_ms",
        "dns_ms",
        "received_bytes",
        "request",
        "sent_bytes",
        "target",
        "tls_ms",
    )

    def __init__(self, target: Target, request: bytes, timeout_s: float) -> None:
        self.target, self.request = target, request
        self._started_s = monotonic()
        self._ends_s = self._started_s + timeout_s
        self.dns_ms: float | None = None
        self.connect_ms: float | None = None
        self.tls_ms: float | None = None
        self.address: str | None = None
        self.sent_bytes: int | None = None
        self.received_bytes: int | None = None

    def on(self, connection: Connection) -> None:
        """This is the connection that it goes out on."""
        self.address = connection.address
        self.sent_bytes = len(self.request)

    def left_s(self) -> float:
        return max(self._ends_s - monotonic(), 0.0)

    def timings(self, first_byte_s: float | None = None) -> Timings:
        first_byte_ms = None if first_byte_s is None else (first_byte_s - self._started_s) * 1000
        return Timings(
            _ms_since(self._started_s),
            self.dns_ms,
            self.connect_ms,
            self.tls_ms,
            first_byte_ms,
            self.address,
            self.sent_bytes,
            self.received_bytes,
        )

    def failed(self, error_class: str, details: str) -> _Ended:
        return _Ended(NoAnswer(error_class, details[:500], self.timings()))

    def refused(self, details: str) -> _Ended:
        return _Ended(Refused("blocked", details, self.timings()))


class _Ended(Exception):
    """The post is over before its request was sent."""

    def __init__(self, outcome: NoAnswer | Refused) -> None:
        super().__init__()
        self.outcome = outcome


def _to_try(addresses: Sequence[Address]) -> list[Address]:
    """The best few, best first; both versions are among them: one of the two may lead nowhere from here."""
    preferred = addresses[0].version
    same = [address for address in addresses if address.version == preferred]
    other = [address for address in addresses if address.version != preferred]
    return same[:ADDRESSES_MAX] + other[:ADDRESSES_MAX]


def _place(address: Address) -> str:
    inner = unwrap(address)
    return "loopback" if inner.is_loopback or inner.is_unspecified else str(inner)


async def _new_socket(address: Address, within_s: float) -> socket.socket:
    """Waits for a descriptor while there is none. Raises OSError: what we lack is no fault of the endpoint's."""
    ends_s = monotonic() + within_s
    while True:
        try:
            return socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        except OSError as error:
            if error.errno not in _OURS or monotonic() > ends_s:
                raise
        await asyncio.sleep(_DESCRIPTOR_POLL_S)


async def _connected(connecting: socket.socket, address: Address, port: int) -> socket.socket:
    """The same socket, connected; closed when it raises."""
    try:
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, (str(address), port))
    except BaseException:
        connecting.close()
        raise
    return connecting


def _ms_since(started_s: float) -> float:
    return (monotonic() - started_s) * 1000
