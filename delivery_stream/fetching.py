"""Fetches from all partitions at once and hands each one's records to their owner while it has room.

One batch of each partition is being taken, one may wait behind it, and of that partition nothing more is fetched then.
All others are in every fetch: aiokafka asks a broker for nothing while something of that broker lies with it
(docs/decisions/0012).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple, Protocol

from aiokafka import ConsumerRecord, TopicPartition

from delivery_stream.offsets import Commit

#: How soon a partition that had no room is looked at again.
_ROOM_POLL_S = 0.02
#: As long as nothing comes.
_FETCH_S = 1.0
#: With so many partitions of which something is fetched and not taken, each a MiB or one large record, or twice that,
#: nothing more is fetched.
_UNTAKEN_MAX = 64


class Owner(Protocol):
    """Who the partitions are handed to."""

    async def assigned(self, partitions: Mapping[TopicPartition, Commit]) -> None:
        """These and no others are ours from now on, each with the group's commit, or where its log starts."""
        ...

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """They will be another's when this returns: finish what can be finished soon, and commit."""
        ...

    def has_room(self, partition: TopicPartition) -> bool:
        """Whether more of this partition is wanted now."""
        ...

    def next_offset(self, partition: TopicPartition) -> int | None:
        """What must come next of a partition that is ours; None for any other."""
        ...

    def start_again(self, partition: TopicPartition, commit: Commit) -> None:
        """This one is another log than it was: what comes next of it is the first record of that."""
        ...

    async def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        """Records in order, none of which came before in this assignment; returns when there is room for more.

        One batch of each partition at a time. It may have been taken away just now: then they are nobody's.
        """
        ...


class Fetched(NamedTuple):
    """What one fetch gave."""

    records: Mapping[TopicPartition, Sequence[ConsumerRecord]]
    #: Where each partition stands now, as this fetch has left it.
    positions: Mapping[TopicPartition, int]
    #: Records that are there beyond these.
    lag: int


class Fetches(Protocol):
    """The consumer. A partition that is not ours any more is passed over. Raises KafkaError."""

    async def fetch(self, wanted: Set[TopicPartition], timeout_s: float) -> Fetched: ...
    def go_back(self, partition: TopicPartition, offset: int) -> None: ...
    def hold(self, partition: TopicPartition) -> None: ...
    def go_on(self, partition: TopicPartition) -> None: ...
    async def ends(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]: ...
    async def first(self, partition: TopicPartition) -> int: ...


class Fetching:
    """``turn`` again and again."""

    def __init__(
        self, consumer: Fetches, owner: Owner, note_replaced: Callable[[TopicPartition, int, int], None]
    ) -> None:
        """``note_replaced`` hears of a partition, what was next of it, and where it ends before that."""
        self._consumer = consumer
        self._owner = owner
        self._note_replaced = note_replaced
        self._asked_again: dict[TopicPartition, int] = {}
        #: Fetched and not taken yet.
        self._waiting: dict[TopicPartition, Sequence[ConsumerRecord]] = {}
        #: A batch that has no room yet holds up its own partition and no other.
        self._takes: dict[TopicPartition, asyncio.Task[None]] = {}
        #: As of the last fetch.
        self.lag = 0

    def assigned(self) -> None:
        """Where the owner stands is new."""
        self._asked_again.clear()

    def revoked(self) -> None:
        """What waits will be another's."""
        self._waiting.clear()

    async def turn(self, active: Set[TopicPartition]) -> None:
        """One fetch, if there is room for one. Raises what a take has raised."""
        self._take_what_waits()
        untaken = self._takes.keys() | self._waiting.keys()
        # A set of its own: Faust empties the other in a rebalance, and for aiokafka an empty one means all.
        wanted = {tp for tp in active if self._owner.next_offset(tp) is not None}
        if not wanted or len(untaken) >= _UNTAKEN_MAX:
            await asyncio.sleep(_ROOM_POLL_S)
            return
        fetched = await self._consumer.fetch(wanted, _ROOM_POLL_S if self._waiting else _FETCH_S)
        self.lag = fetched.lag
        ours = {tp: records for tp, records in fetched.records.items() if self._owner.next_offset(tp) is not None}
        self._waiting.update(ours)
        self._take_what_waits()
        await asyncio.sleep(0)  # most are taken by then
        self._forget_taken()
        self._go_back(fetched.positions)

    def _go_back(self, positions: Mapping[TopicPartition, int]) -> None:
        """Where a fetch has gone further than the owner: what is between went to nobody."""
        for partition, position in positions.items():
            if partition in self._takes or partition in self._waiting:
                continue
            next_offset = self._owner.next_offset(partition)
            if next_offset is not None and position > next_offset and not self._is_hole(partition, next_offset):
                self._asked_again[partition] = next_offset
                self._consumer.go_back(partition, next_offset)

    def _take_what_waits(self) -> None:
        """Each partition's one after the other, and while its owner has room."""
        self._forget_taken()
        for partition in self._waiting:
            if partition in self._takes or not self._owner.has_room(partition):
                self._consumer.hold(partition)
            else:
                self._takes[partition] = asyncio.create_task(self._take(partition))

    def _forget_taken(self) -> None:
        for partition in [partition for partition, take in self._takes.items() if take.done()]:
            self._takes.pop(partition).result()

    async def _take(self, partition: TopicPartition) -> None:
        while (records := self._waiting.pop(partition, None)) is not None:
            self._consumer.go_on(partition)
            if new := await self._new(partition, records):
                await self._owner.take(partition, new)
            if not self._owner.has_room(partition):
                return

    async def _new(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> Sequence[ConsumerRecord]:
        """What the owner wants next decides, since a fetch may end on the other side of a rebalance.

        Records of any assignment are the same records, so a batch that goes on where the owner stands is right. A
        batch from further on, or a position there without a batch, means that records went to nobody: fetch again.
        """
        next_offset = self._owner.next_offset(partition)
        if next_offset is None:
            return ()
        new = records if records[0].offset >= next_offset else [r for r in records if r.offset >= next_offset]
        if not new:
            await self._compare(partition, next_offset)
            return ()
        return new if new[0].offset == next_offset or self._is_hole(partition, next_offset) else ()

    async def _compare(self, partition: TopicPartition, next_offset: int) -> None:
        """A whole batch from before where we stand: left from before a rebalance, or the log is another one."""
        end = (await self._consumer.ends([partition])).get(partition, next_offset)
        if end < next_offset:
            self._note_replaced(partition, next_offset, end)
            start = await self._consumer.first(partition)
            self._owner.start_again(partition, Commit(start, ""))
            self._consumer.go_back(partition, start)

    def _is_hole(self, partition: TopicPartition, next_offset: int) -> bool:
        """Asked again for this offset, the log went on further on: there is nothing."""
        return self._asked_again.get(partition) == next_offset
