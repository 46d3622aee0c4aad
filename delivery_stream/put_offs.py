"""Deliveries on their way to a tier, several of a partition at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from delivery_stream.decision import Wait
from delivery_stream.lanes import PutOff
from delivery_stream.under_way import Entry, Held, UnderWay
from shared.records import Delivery

#: So long what is put off waits for more of its partition: alone it would be a batch of its own for Kafka and for all
#: readers. Then so many at a time, or requests would wait for them.
_TOGETHER_S = 0.1
_TOGETHER_MAX = 32


class PutsOff(Protocol):
    """Returns once Kafka has confirmed all of them."""

    async def put_off(self, waiting: Sequence[tuple[Delivery, Wait]]) -> None: ...


class PutOffs:
    """``add`` each; it is done when its record in the tier is confirmed."""

    def __init__(self, io: PutsOff, under_way: UnderWay) -> None:
        self._io = io
        self._under_way = under_way
        self._count = 0

    def __len__(self) -> int:
        """How many wait to be put off, or for Kafka to confirm that they are."""
        return self._count

    def add(self, wait: PutOff[Entry]) -> None:
        waits = wait.entry.held.put_offs
        if not waits:
            asyncio.get_running_loop().call_later(_TOGETHER_S, self._start, wait.entry.held)
        waits.append(wait)
        self._count += 1

    def _start(self, held: Held) -> None:
        waits, held.put_offs = held.put_offs[:_TOGETHER_MAX], held.put_offs[_TOGETHER_MAX:]
        if held.put_offs:
            asyncio.get_running_loop().call_soon(self._start, held)
        if held.closing:
            # Received and never done: the next owner starts with them.
            self._count -= len(waits)
            return
        self._under_way.start(self._put_off(waits), held)

    async def _put_off(self, waits: Sequence[PutOff[Entry]]) -> None:
        try:
            await self._io.put_off([(wait.entry.delivery, Wait(wait.wait_s, wait.reason)) for wait in waits])
        finally:
            self._count -= len(waits)
        for wait in waits:
            self._under_way.done(wait.entry)
