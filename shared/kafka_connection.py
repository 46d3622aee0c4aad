"""A write to a broker that is gone already.

uvloop raises RuntimeError for it, where asyncio says nothing and a moment later that the connection is lost. aiokafka
takes that for a fault of its own (https://github.com/aio-libs/aiokafka/issues/1038) and ends the task that it meets. If
that is the one which keeps the metadata, the client waits for its coordinator for ever and tells nobody.
"""

from __future__ import annotations

from typing import Any

import aiokafka.conn
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


class Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A lost connection is a KafkaConnectionError, in any loop."""

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """As aiokafka's. Raises KafkaConnectionError."""
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection is gone: {error}") from error


def use() -> None:
    """From now on, for every client of this process."""
    aiokafka.conn.AIOKafkaConnection = Connection
