"""What aiokafka makes of a connection that has just gone, in the loop that our processes run in."""

from __future__ import annotations

import asyncio

import aiokafka.conn
import pytest
import uvloop
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from shared import broker
from shared.kafka_connection import Connection


def test_a_write_to_a_connection_that_is_gone_is_a_lost_connection() -> None:
    assert aiokafka.conn.AIOKafkaConnection is Connection, f"{broker.__name__} is where everybody's options come from"
    uvloop.run(_write_to_a_connection_that_is_gone())


async def _write_to_a_connection_that_is_gone() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = aiokafka.conn.AIOKafkaConnection("127.0.0.1", port)
        connection._reader, connection._writer = await asyncio.open_connection("127.0.0.1", port)
        # Its reader has not been told yet.
        connection._read_task = asyncio.create_task(asyncio.Event().wait())
        connection._versions = {MetadataRequest.API_KEY: (0, 5)}
        connection._writer.transport.abort()
        await connection._writer.wait_closed()
        with pytest.raises(KafkaConnectionError, match="the handler is closed"):
            connection.send(MetadataRequest([]))
        assert not connection.connected()
