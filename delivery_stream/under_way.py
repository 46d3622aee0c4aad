"""What a worker has in hand: its partitions, the deliveries of them, and tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field

from delivery_stream.lanes import PutOff
from delivery_stream.offsets import Tracker
from shared.clock import Clock
from shared.records import Delivery

log = logging.getLogger(__name__)

#: As long as any request may take (`Subscription.timeout_seconds` goes so far), where nobody knows better.
TIMEOUT_MAX_S = 300.0


@dataclass(slots=True)
class Held:
    """A partition of ours and what is under way in it."""

    tracker: Tracker
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    #: Requests and records that are not answered, without a task.
    out: int = 0
    #: What goes to a tier with the next ones that do.
    put_offs: list[PutOff[Entry]] = field(default_factory=list)
    #: It goes to another owner, or we end: nothing new of it begins.
    closing: bool = False


@dataclass(slots=True, eq=False)
class Entry:
    """A delivery on its way through its lane."""

    delivery: Delivery
    offset: int
    held: Held
    #: One text, which the garbage collector passes over: hundreds of thousands are remembered.
    attempt_key: str
    size_bytes: int
    queued_s: float = 0.0
    timeout_s: float = TIMEOUT_MAX_S

    @classmethod
    def of(cls, delivery: Delivery, offset: int, held: Held) -> Entry:
        key = f"{delivery.subscription_id} {delivery.webhook_id} {delivery.run} {delivery.attempt}"
        return cls(delivery, offset, held, key, len(delivery.payload) + 1000)

    @property
    def waits(self) -> int:
        return self.delivery.waits


class UnderWay:
    """Starts work, knows what is done, and tells of a bug at once."""

    def __init__(self, clock: Clock, crash: Callable[[BaseException], None]) -> None:
        """``crash`` ends the process: a record that could not be handled must not be forgotten in memory."""
        self._clock = clock
        self._crash = crash
        self._tasks: dict[asyncio.Task[None], Held] = {}
        #: What has not ended is the next owner's, and nothing that comes of it here counts any more.
        self.left = False
        #: When a record was last finished, by the monotonic clock.
        self.progress_s = clock.monotonic_s()
        #: Set where there may be room again, or something to wait for has ended.
        self.changed = asyncio.Event()

    @property
    def tasks(self) -> int:
        return len(self._tasks)

    @property
    def held(self) -> Iterable[Held]:
        """Of each task; among them those that are no longer ours."""
        return self._tasks.values()

    def start(self, work: Coroutine[None, None, None], held: Held) -> None:
        """What it raises ends the process."""
        if self.left:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks[task] = held
        held.tasks.add(task)
        task.add_done_callback(self._over)

    def leave(self) -> None:
        """The process ends: what is cut off now shall not look like something that happened."""
        self.left = True
        for task in self._tasks:
            task.cancel()

    def done(self, entry: Entry) -> None:
        self.finish(entry.held, entry.offset)

    def finish(self, held: Held, offset: int) -> None:
        """Whatever followed from this record is in the log."""
        held.tracker.done(offset)
        self.progress_s = self._clock.monotonic_s()

    def fail(self, error: BaseException) -> None:
        log.error("record not handled", exc_info=error)
        self._crash(error)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
