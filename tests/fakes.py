"""Stand-ins that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, cast

from aiokafka import ConsumerRecord

from delivery_stream.conclusion import Conclusion
from delivery_stream.decision import Answered, Outcome, Wait
from delivery_stream.deliver import Ended, Prepared
from delivery_stream.intake import Astray
from delivery_stream.request import Request
from delivery_stream.sender import Post
from shared.records import Delivery, Record
from shared.subscriptions import Absent, Found, Subscription


class Handled:
    """`dispatcher.Delivers`: a delivery is what ``handle`` does with it, and then answered 200 unless it says else."""

    timeout_s = 10.0

    def __init__(self, handle: Callable[[Delivery], Awaitable[Outcome | None]], *, partitions: int = 1) -> None:
        self._handle = handle
        self._partitions = partitions
        self.subscriptions: dict[str, Subscription] = {}
        #: What is not in memory until something is delivered to it.
        self.found_later: dict[str, Subscription] = {}
        self.kept: list[Delivery] = []
        self.put_offs: list[tuple[Delivery, Wait]] = []
        #: On which connection a delivery is posted: one that is kept, or is cut before an answer, or none yet.
        self.posts: Literal["kept", "cut", "new", "unprepared"] = "kept"
        #: What was asked of it for requests, in order.
        self.steps: list[Literal["prepare", "post", "anew"]] = []
        #: Of what is concluded: whether it is finished, and is one record for `send_soon`.
        self.finishes = self.in_one_record = True
        #: What becomes of those records; by offset, whom to tell of one that waits.
        self.sends: Literal["confirmed", "waiting", "full", "broken"] = "confirmed"
        self.sent: dict[int, Callable[[bool], None]] = {}
        self.counted = self.published = 0
        #: How many at a time.
        self.concluded: list[int] = []
        #: Whether Kafka confirms what is kept, put off or published.
        self.confirms = asyncio.Event()
        self.confirms.set()
        self.rehomed: list[Astray] = []
        self.buried: list[tuple[int, str]] = []

    def partitions(self) -> int:
        return self._partitions

    async def learn(self, subscription_ids: Iterable[str]) -> None:
        """There is nothing to learn."""

    def peek(self, subscription_id: str) -> Found | Absent | None:
        found = self.subscriptions.get(subscription_id)
        return Found(found) if found else None

    async def deliver(self, delivery: Delivery) -> Ended:
        found = self.found_later.get(delivery.subscription_id)
        return Ended(delivery, found, await self._handle(delivery) or Answered(200), started_ms=0)

    def prepare(self, delivery: Delivery) -> Prepared | None:
        self.steps.append("prepare")
        known = cast(Subscription, None)
        made = Prepared(delivery, known, cast(Request, None), cast(Post, None), started_ms=0)
        return None if self.posts == "unprepared" else made

    def post_soon(self, prepared: Prepared, told: Callable[[Ended | None], None]) -> bool:
        self.steps.append("post")
        match self.posts:
            case "new":
                return False
            case "cut":
                asyncio.get_running_loop().call_soon(told, None)
            case _:
                answering = asyncio.create_task(self.deliver(prepared.delivery))
                answering.add_done_callback(lambda task: told(task.result()))
        return True

    async def post_anew(self, prepared: Prepared) -> Ended:
        self.steps.append("anew")
        return await self.deliver(prepared.delivery)

    def conclude(self, ended: Sequence[Ended]) -> Sequence[Conclusion]:
        self.concluded.append(len(ended))
        return [Conclusion(self.finishes, self._record(one), self._count, self._publish) for one in ended]

    def _record(self, ended: Ended) -> Record | None:
        return Record("attempts", b"", str(ended.delivery.source).encode()) if self.in_one_record else None

    def _count(self) -> None:
        self.counted += 1

    async def _publish(self) -> None:
        self.published += 1
        await self.confirms.wait()

    def send_soon(self, record: Record, told: Callable[[bool], None]) -> bool:
        """`Producer.send_soon`."""
        match self.sends:
            case "confirmed":
                asyncio.get_running_loop().call_soon(told, True)
            case "waiting":
                self.sent[int((record.value or b"").rpartition(b":")[2])] = told
            case "full":
                return False
            case "broken":
                raise KeyError("a bug")
        return True

    async def keep(self, delivery: Delivery, subscription: Subscription | None) -> bool:
        self.kept.append(delivery)
        await self.confirms.wait()
        return True

    async def put_off(self, waiting: Sequence[tuple[Delivery, Wait]]) -> None:
        self.put_offs += waiting
        await self.confirms.wait()

    async def rehome(self, astray: Astray) -> bool:
        self.rehomed.append(astray)
        return True

    async def bury(self, record: ConsumerRecord, reason: str) -> None:
        self.buried.append((record.offset, reason))
