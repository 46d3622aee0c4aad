"""One connection to a receiver: a request out, an answer in, one exchange at a time, everything bounded.

The receiver is not trusted: it may answer early, late, a byte a second, for ever, twice, or not in HTTP at all.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import NamedTuple, cast

import httptools

#: The whole head of an answer, 1xx heads and trailers included.
HEAD_MAX_BYTES = 64 * 1024
HEADERS_MAX = 256
INFORMATIONAL_MAX = 8
#: Of the answer's body, what is kept for people to look at.
BODY_KEPT_BYTES = 8 * 1024
#: Of the answer's body, what is read to keep the connection usable. Beyond it the status is the answer and we hang up.
BODY_MAX_BYTES = 64 * 1024
#: Everything received for one request; chunked coding may put six bytes around one.
RECEIVED_MAX_BYTES = 1024 * 1024


class Reply(NamedTuple):
    """A whole answer, or one whose body we stopped reading."""

    status: int
    retry_after: str | None
    body: bytes
    first_byte_s: float


class Broken(NamedTuple):
    """No answer. ``unanswered``: the connection ended before any byte of one, as an idle one does that was closed."""

    error_class: str
    details: str
    unanswered: bool
    first_byte_s: float | None


class Connection(asyncio.Protocol):
    """One exchange at a time. ``reusable`` says after one whether there may be another.

    ``on_made`` and ``on_lost`` are called once each, when the transport is there and when it is gone.
    """

    __slots__ = (
        "_below",
        "_body",
        "_body_bytes",
        "_complete",
        "_deadline",
        "_first_byte_s",
        "_framed",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_informational",
        "_loop",
        "_lost",
        "_on_lost",
        "_on_made",
        "_parser",
        "_received_bytes",
        "_retry_after",
        "_status",
        "_told",
        "_transport",
        "address",
        "opened_s",
        "origin",
        "reusable",
    )
    _first_byte_s: float | None
    _retry_after: str | None
    _body: list[bytes]

    def __init__(
        self,
        origin: tuple[str, str, int],
        address: str,
        on_made: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.origin, self.address = origin, address
        self.opened_s = monotonic()
        self.reusable = False
        self._on_made, self._on_lost = on_made, on_lost
        self._lost = False
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        #: The socket's: with TLS the one below, which has what TLS has encrypted and does not count any more.
        self._below: asyncio.Transport | None = None
        self._told: Callable[[Reply | Broken], None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._forget()

    async def secure(self, tls: ssl.SSLContext, host: str) -> None:
        """From here on TLS with ``host``. Raises OSError, and has closed the connection then.

        `create_connection` could do it, but of its TLS nobody can tell what of a request has left us.
        """
        assert self._below is not None
        try:
            if self._below.is_closing():
                raise ConnectionResetError("closed, or spoken to us, before TLS")
            secured = await self._loop.start_tls(self._below, self, tls, server_hostname=host)
        except BaseException:
            self.abort()
            self.connection_lost(None)
            raise
        if secured is None or self._below.is_closing():
            self.connection_lost(None)  # of an end during the handshake no transport tells
        else:
            self._transport = secured

    async def exchange(self, request: bytes, timeout_s: float) -> Reply | Broken:
        """Sends the request and gives what came back within ``timeout_s``; cancelled, it closes the connection."""
        if self._transport is None or self._lost:
            return Broken("connection_reset", "closed before the request was sent", True, None)
        waiter: asyncio.Future[Reply | Broken] = self._loop.create_future()
        self.send(request, timeout_s, partial(_give, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            self._hang_up()
            raise

    def send(self, request: bytes, timeout_s: float, told: Callable[[Reply | Broken], None]) -> None:
        """The same without a task, while it is open: ``told`` hears once, later, and must not raise."""
        assert self._transport is not None
        try:
            self._forget()
            self.reusable = False
            self._told = told
            self._deadline = self._loop.call_later(timeout_s, self._break, "timeout", "no whole answer in time")
            self._transport.write(request)
        except BaseException:
            self._hang_up()
            raise

    @property
    def received_bytes(self) -> int:
        """Of the last exchange."""
        return self._received_bytes

    def abort(self) -> None:
        """Closes at once: no TLS farewell to wait for, nothing flushed."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._below = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        if self._told is None:  # nobody asked: whatever it is, it must not become the next request's answer
            self.abort()
            return
        if self._first_byte_s is None:
            self._first_byte_s = monotonic()
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unreadable(error)
        else:
            self._progress()

    def eof_received(self) -> None:
        """The receiver sends no more: the end of an answer that has no other end (RFC 9112 section 6.3), or a cut."""
        if self._told is None:
            self.reusable = False
        elif self._head_done and not self._framed:
            self._answer(reusable=False)
        else:
            self._break("connection_reset", "closed by the receiver")

    def connection_lost(self, exc: Exception | None) -> None:
        tls = isinstance(exc, ssl.SSLError)
        if not self._lost:
            self._lost, self.reusable = True, False
            self._on_lost(self)
        self._break("tls_failed" if tls else "connection_reset", describe(exc) if exc else "closed by the receiver")

    # From the parser. An exception raised in here comes out of feed_data as HttpParserError.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_status(self, reason: bytes) -> None:
        self._head_bytes += len(reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        length = len(name)
        self._headers += 1
        self._head_bytes += length + len(value) + 4
        if self._head_bytes > HEAD_MAX_BYTES or self._headers > HEADERS_MAX:
            raise ValueError("head too large")
        if length == 11 and self._retry_after is None and name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif (length == 14 and name.lower() == b"content-length") or (
            length == 17 and name.lower() == b"transfer-encoding"
        ):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 100:
            raise ValueError("a status below 100")
        self._head_done = self._status >= 200

    def on_body(self, data: bytes) -> None:
        if self._body_bytes < BODY_KEPT_BYTES:
            self._body.append(data[: BODY_KEPT_BYTES - self._body_bytes])
        self._body_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self.reusable = self._parser.should_keep_alive()
            return
        self._informational += 1
        self._framed, self._retry_after = False, None
        if self._informational > INFORMATIONAL_MAX:
            raise ValueError("too many informational answers")

    # What it comes to

    def _forget(self) -> None:
        """Everything about the last exchange."""
        self._first_byte_s = None
        self._received_bytes = self._head_bytes = self._headers = self._informational = self._body_bytes = (
            self._status
        ) = 0
        self._head_done = self._framed = self._complete = False
        self._retry_after = None
        self._body = []

    def _progress(self) -> None:
        if self._complete:
            self._answer(self.reusable)
        elif self._head_done:
            if self._body_bytes > BODY_MAX_BYTES or self._received_bytes > RECEIVED_MAX_BYTES:
                self._answer(reusable=False)
        elif self._received_bytes > HEAD_MAX_BYTES:
            self._break("bad_response", "an endless head")

    def _unreadable(self, error: Exception) -> None:
        if self._complete:  # a whole answer and then rubbish: the answer counts, the connection is done
            self._answer(reusable=False)
        else:
            self._break("bad_response", describe(error.__context__ or error))

    def _answer(self, reusable: bool) -> None:
        if self._told is None:
            return
        assert self._below is not None
        # An answer that came while we still send: what is left of the request would stand before the next one.
        self.reusable = reusable and self._below.get_write_buffer_size() == 0
        self._tell(Reply(self._status, self._retry_after, b"".join(self._body), self._first_byte_s or monotonic()))

    def _break(self, error_class: str, details: str) -> None:
        self.reusable = False
        unanswered = self._first_byte_s is None and error_class == "connection_reset"
        self._tell(Broken(error_class, details, unanswered, self._first_byte_s))

    def _tell(self, reply: Reply | Broken) -> None:
        told = self._told
        if told is None:
            return
        if self.reusable:
            self._asked_no_more()
        else:
            self._hang_up()
        told(reply)

    def _hang_up(self) -> None:
        self._asked_no_more()
        self.abort()

    def _asked_no_more(self) -> None:
        self._told = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _give(waiter: asyncio.Future[Reply | Broken], reply: Reply | Broken) -> None:
    if not waiter.done():  # cancelled in this turn of the loop
        waiter.set_result(reply)


def describe(error: BaseException) -> str:
    """An error in one printable ASCII line of at most 500 characters, without addresses of ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        text = f"TLS: {error.reason or 'failed'}"
    elif isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        text = errno.errorcode[error.errno]
    else:
        text = str(error) or type(error).__name__
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:500]
