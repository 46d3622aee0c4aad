"""Requests from their start to their end: made together, sent together, without a task each (docs/decisions/0016)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from delivery_stream.cohort import Cohort
from delivery_stream.deliver import Ended, Prepared
from delivery_stream.repeats import Repeats
from delivery_stream.under_way import Entry, UnderWay
from shared.records import Delivery

#: How often to ask whether a request may start again.
_POLL_S = 0.05


class Posts(Protocol):
    """``deliver`` does all; or `prepare`, and then `post_soon`, and `post_anew` where that cannot or could not."""

    def deliver(self, delivery: Delivery) -> Awaitable[Ended]: ...
    def prepare(self, delivery: Delivery) -> Prepared | None: ...
    def post_soon(self, prepared: Prepared, told: Callable[[Ended | None], None]) -> bool: ...
    def post_anew(self, prepared: Prepared) -> Awaitable[Ended]: ...


class Requests:
    """``add`` each; what a copy of it has done already has no request."""

    def __init__(
        self,
        io: Posts,
        under_way: UnderWay,
        repeats: Repeats,
        over: Callable[[Entry, Ended], None],
        failed: Callable[[Entry], None],
        may_start: Callable[[], bool],
    ) -> None:
        """``over`` hears what came of each, and must `end` it in ``repeats``; ``failed`` of each that came to nothing:
        a copy of it has finished, its partition goes to another owner, or the process ends. ``may_start``: `add` is for
        who has asked it already.
        """
        self._io = io
        self._under_way = under_way
        self._repeats = repeats
        self._over = over
        self._failed = failed
        self._may_start = may_start
        self._new = Cohort(self._send)
        self._out = 0

    @property
    def out(self) -> int:
        """Requests without a task."""
        return self._out

    def add(self, entry: Entry) -> None:
        """Its slot is taken already."""
        if not self._repeats.begin_now(entry.attempt_key):
            self._under_way.start(self._after_its_copy(entry), entry.held)
            return
        self._new.add(entry)
        self._count(entry, 1)

    def _send(self, several: Sequence[Entry]) -> None:
        if self._under_way.left:
            return
        made: list[tuple[Entry, Prepared | None]] = []
        for entry in several:
            try:
                made.append((entry, self._io.prepare(entry.delivery)))
            except Exception as error:  # noqa: BLE001 - the loop would only log it
                self._give_up(entry, error)
        for entry, prepared in made:
            try:
                self._post(entry, prepared)
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(entry, error)

    def _post(self, entry: Entry, prepared: Prepared | None) -> None:
        if prepared is None:
            self._in_a_task(entry, partial(self._io.deliver, entry.delivery))
        elif not self._io.post_soon(prepared, partial(self._told, entry, prepared)):
            self._in_a_task(entry, partial(self._io.post_anew, prepared))

    def _told(self, entry: Entry, prepared: Prepared, ended: Ended | None) -> None:
        if self._under_way.left:
            return
        try:
            if ended is None:
                self._in_a_task(entry, partial(self._io.post_anew, prepared))
            else:
                self._count(entry, -1)
                self._over(entry, ended)
        except Exception as error:  # noqa: BLE001 - the transport would only log it
            self._under_way.fail(error)

    def _in_a_task(self, entry: Entry, deliver: Callable[[], Awaitable[Ended]]) -> None:
        self._count(entry, -1)
        self._under_way.start(self._one(entry, deliver), entry.held)

    def _count(self, entry: Entry, more: int) -> None:
        entry.held.out += more
        self._out += more
        if entry.held.closing:
            self._under_way.changed.set()

    def _give_up(self, entry: Entry, error: Exception) -> None:
        """A bug: the process ends, and what is under way beside it is finished."""
        self._count(entry, -1)
        self._nothing_came(entry)
        self._under_way.fail(error)

    async def _after_its_copy(self, entry: Entry) -> None:
        begun = False
        try:
            begun = await self._repeats.begin(entry.attempt_key)
        finally:
            if not begun:
                self._failed(entry)
        if begun:
            await self._one(entry, partial(self._io.deliver, entry.delivery))
        else:
            self._under_way.done(entry)

    async def _one(self, entry: Entry, deliver: Callable[[], Awaitable[Ended]]) -> None:
        ended = None
        try:
            if await self._is_ours(entry):
                ended = await deliver()
        finally:
            if ended is None:
                self._nothing_came(entry)
        if ended is not None:
            self._over(entry, ended)

    async def _is_ours(self, entry: Entry) -> bool:
        """Once that is beyond doubt: who was frozen for long and finds its connections cut has to ask first."""
        while not self._may_start():
            if entry.held.closing:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _nothing_came(self, entry: Entry) -> None:
        self._repeats.end(entry.attempt_key, finished=False)
        self._failed(entry)
