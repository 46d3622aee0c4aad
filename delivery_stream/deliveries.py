"""What the dispatcher asks for, put together from the files that do it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiokafka import ConsumerRecord

from delivery_stream.conclusion import Conclusion, Waiting, conclude, keep, put_off
from delivery_stream.decision import Wait
from delivery_stream.deliver import DeliverIO, Ended, Prepared, deliver, post_anew, post_soon, prepare
from delivery_stream.intake import Astray, IntakeIO
from shared.records import Delivery, Record
from shared.subscriptions import Absent, Found, Subscription

#: Once for each batch with subscriptions that are not in memory.
LEARN_S = 1.0


class Deliveries:
    """`dispatcher.Delivers`, over one `DeliverIO`."""

    def __init__(
        self,
        io: DeliverIO,
        *,
        send_soon: Callable[[Record, Callable[[bool], None]], bool],
        partitions: Callable[[], int],
    ) -> None:
        """``send_soon``: the producer's. ``partitions``: how many `deliveries` has."""
        self._io = io
        self._intake = IntakeIO(io.publish, io.clock, io.topics)
        self.send_soon = send_soon
        self.partitions = partitions

    @property
    def timeout_s(self) -> float:
        """Of a request whose subscription has none of its own."""
        return self._io.timeout_s

    def peek(self, subscription_id: str) -> Found | Absent | None:
        """What is in memory of a subscription."""
        return self._io.subscriptions.peek(subscription_id)

    async def learn(self, subscription_ids: Iterable[str]) -> None:
        """Have these in memory, if that is a matter of a moment: an endpoint is not slow because our stores are."""
        unknown = [one for one in subscription_ids if self.peek(one) is None]
        if not unknown or self._io.subscriptions.postgres_trouble:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEARN_S):
                await asyncio.gather(*map(self._io.subscriptions.get, unknown))

    def deliver(self, delivery: Delivery) -> Awaitable[Ended]:
        return deliver(delivery, self._io)

    def prepare(self, delivery: Delivery) -> Prepared | None:
        return prepare(delivery, self._io)

    def post_soon(self, prepared: Prepared, told: Callable[[Ended | None], None]) -> bool:
        return post_soon(prepared, self._io, told)

    def post_anew(self, prepared: Prepared) -> Awaitable[Ended]:
        return post_anew(prepared, self._io)

    def conclude(self, ended: Sequence[Ended]) -> Sequence[Conclusion]:
        return conclude(ended, self._io)

    def keep(self, delivery: Delivery, subscription: Subscription | None) -> Awaitable[bool]:
        return keep(delivery, subscription, self._io)

    async def put_off(self, waiting: Sequence[tuple[Delivery, Wait]]) -> None:
        several = [Waiting(one, self._known(one.subscription_id), wait) for one, wait in waiting]
        await put_off(several, self._io.clock.now_ms(), self._io)

    def _known(self, subscription_id: str) -> Subscription | None:
        known = self.peek(subscription_id)
        return known.subscription if isinstance(known, Found) else None

    async def rehome(self, astray: Astray) -> bool:
        return await self._intake.rehome(astray)

    async def bury(self, record: ConsumerRecord, reason: str) -> None:
        await self._intake.bury(record, reason)
