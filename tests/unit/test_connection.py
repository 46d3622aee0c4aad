"""One connection over a transport that a test feeds; what any bytes come to is in tests/property/test_answers.py."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from delivery_stream.connection import Broken, Connection, Reply


class Transport(asyncio.Transport):
    """Notes what is written, and whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.cut = self.fails = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.fails:
            raise RuntimeError("closed")
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.cut = True


def connected() -> tuple[Connection, Transport, list[Connection]]:
    """With whoever was told that it is lost."""
    lost: list[Connection] = []
    connection, transport = Connection(("http", "h", 80), "192.0.2.1", lambda _made: None, lost.append), Transport()
    connection.connection_made(transport)
    return connection, transport, lost


async def test_an_answer_is_heard_once_and_the_connection_serves_again() -> None:
    connection, transport, _ = connected()
    heard: list[Reply | Broken] = []
    for _ in range(2):
        connection.send(b"POST", 5.0, heard.append)
        connection.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert connection.reusable
    assert [cast(Reply, one).status for one in heard] == [204, 204]
    assert (transport.written, transport.cut) == ([b"POST", b"POST"], False)


async def test_of_two_retry_after_lines_the_first_counts_and_none_is_kept_for_the_next_answer() -> None:
    connection, _transport, _ = connected()
    heard: list[Reply | Broken] = []
    for lines in (b"Retry-After: 7\r\nretry-after: 90\r\n", b""):
        connection.send(b"POST", 5.0, heard.append)
        connection.data_received(b"HTTP/1.1 503 Busy\r\n" + lines + b"Content-Length: 0\r\n\r\n")
    assert [cast(Reply, one).retry_after for one in heard] == ["7", None]


async def test_a_goodbye_while_nobody_asks_ends_it() -> None:
    connection, _transport, _ = connected()
    heard: list[Reply | Broken] = []
    connection.send(b"POST", 5.0, heard.append)
    connection.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert connection.reusable
    connection.eof_received()
    assert (connection.reusable, len(heard)) == (False, 1)


async def test_what_cannot_be_written_is_raised_and_told_to_nobody() -> None:
    connection, transport, _ = connected()
    heard: list[Reply | Broken] = []
    transport.fails = True
    with pytest.raises(RuntimeError):
        connection.send(b"POST", 0.0, heard.append)
    await asyncio.sleep(0.01)
    connection.connection_lost(None)
    assert (heard, transport.cut, connection.reusable) == ([], True, False)


async def test_the_pool_hears_of_a_loss_though_who_waits_fails() -> None:
    connection, _transport, lost = connected()

    def fails(_reply: Reply | Broken) -> None:
        raise KeyError("a bug")

    connection.send(b"POST", 5.0, fails)
    with pytest.raises(KeyError):
        connection.connection_lost(None)
    assert lost == [connection]


async def test_a_cancelled_exchange_ends_it_whatever_comes_in_that_moment() -> None:
    connection, transport, _ = connected()
    asking = asyncio.create_task(connection.exchange(b"POST", 5.0))
    await asyncio.sleep(0)
    asking.cancel()
    connection.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (transport.cut, connection.reusable) == (True, False)
