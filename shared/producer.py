"""The producer every process uses: acknowledged or not confirmed, and never poisoned for longer than one batch.

aiokafka numbers a batch when it leaves the queue. When that batch then fails (refused by the broker, or expired while
its partition had no leader), the number is never used and every later batch of that partition is answered with
OutOfOrderSequenceNumber, for ever. So the first failed batch ends the session: it is replaced, and every send without
an answer is repeated on the new one. A record may therefore be written twice; once acknowledged it is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from shared.broker import max_record_bytes
from shared.clock import Clock, SystemClock
from shared.deadlines import Deadlines
from shared.errors import InvariantBroken, NotConfirmed, RecordTooLarge
from shared.producer_session import ProducerSession
from shared.records import Record, Source
from shared.settings import Settings
from shared.topics import HEADER_ROOM_BYTES

log = logging.getLogger(__name__)

#: The broker's word for "this batch is too large": what was in it is repeated one by one, so that one is found guilty.
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
#: Queueing failed and nothing was numbered: the session is as good as before.
_NOT_QUEUED = (KafkaTimeoutError, UnknownTopicOrPartitionError, TopicAuthorizationFailedError)

_CONNECT_S = 5.0
_START_S = 10.0
_FLUSH_S = 5.0
_METADATA_S = 10.0
#: Sends without an answer for this long are trouble, though aiokafka still repeats them.
_STALLED_S = 5.0


class _Try(NamedTuple):
    session: ProducerSession
    future: asyncio.Future[Any]


class Producer:
    """Records into topics. Safe to use from any number of tasks of one event loop."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._limits: dict[str, int] = {}
        self._session: ProducerSession | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._outstanding = 0
        self._deadlines = Deadlines()
        self._progress_s = 0.0
        self._unlucky = 0  # sessions replaced, or not connected, since the last acknowledgement
        self._error = "not connected to Kafka yet"

    async def start(self) -> None:
        """Connect. Raises NotConfirmed when no broker answers within 10 s; connecting goes on in the background."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        try:
            async with asyncio.timeout(_START_S):
                await self._connected()
        except TimeoutError:
            raise NotConfirmed(self._error) from None

    async def stop(self) -> None:
        """Give what is queued 5 s, then close. What is not answered by then raises NotConfirmed, or hears False."""
        self._stopped = True
        if self._connecting is not None and self._connecting.cancel():
            await asyncio.wait([self._connecting])
        session, self._session = self._session, None
        if session is not None:
            await session.close(_FLUSH_S)
        if self._closing:
            await asyncio.wait(self._closing)

    async def send(self, record: Record, timeout_s: float | None = None) -> Source:
        """Where the record stands in the log, once every in-sync replica has it.

        Raises RecordTooLarge, and NotConfirmed after ``timeout_s``: it may be written still. None: tries for ever.
        """
        if attempt := self._queue_now(record):
            return await self._await(record, attempt, timeout_s)
        return (await self.send_all((record,), timeout_s))[0]

    async def send_all(self, records: Sequence[Record], timeout_s: float | None = None) -> list[Source]:
        """Several at once, written in any order. Raises as `send` does; the others may be written then."""
        if len(records) == 1 and (attempt := self._queue_now(records[0])):
            return [await self._await(records[0], attempt, timeout_s)]
        for record in records:
            self._check_size(record)
        if not self._outstanding:
            self._progress_s = self._clock.monotonic_s()
        self._outstanding += len(records)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._write(records)
        except TimeoutError:
            self._error = self._error or f"no acknowledgement within {timeout_s} s"
            raise NotConfirmed(self._error) from None
        finally:
            self._outstanding -= len(records)

    def send_soon(self, record: Record, told: Callable[[bool], None]) -> bool:
        """Queue one record without a wait, for who has thousands under way: a task for each would cost more.

        ``told`` hears True once every in-sync replica has it, or else False: it may be written, `send` it (what the
        broker refuses for its size is found out anew then). It hears it later, once, and must not raise. The same is to
        be done where this returns False: nothing was queued, and nobody is told anything.
        """
        try:
            attempt = self._queue_now(record)
        except RecordTooLarge:
            return False
        if attempt is None:
            return False
        if not self._outstanding:
            self._progress_s = self._clock.monotonic_s()
        self._outstanding += 1
        attempt.future.add_done_callback(partial(self._tell, attempt.session, told))
        return True

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has, at most 30 s old. Raises NotConfirmed when nobody knows within 10 s."""
        try:
            async with asyncio.timeout(_METADATA_S):
                session = self._session or await self._connected()
                return len(await session.partitions(topic))
        except (KafkaError, TimeoutError) as error:
            raise NotConfirmed(f"{topic}: {_one_line(error)}") from None

    async def check(self, timeout_s: float, needed: Collection[str] = ()) -> str:
        """Ask a broker for a sign of life, and for the topics in ``needed``: "" when all is there, else one line.

        For readiness without traffic.
        """
        try:
            async with asyncio.timeout(timeout_s):
                there = await (self._session or await self._connected()).topics()
        except (KafkaError, NotConfirmed, TimeoutError) as error:
            return self.trouble or _one_line(error)
        missing = sorted(set(needed) - there)
        return f"no topic {', '.join(missing)}" if missing else self.trouble

    @property
    def outstanding(self) -> int:
        """Sends that are not answered yet."""
        return self._outstanding

    @property
    def trouble(self) -> str:
        """ "" while sends are acknowledged, else one line why not."""
        if self._session is None:
            return self._error
        if self._error and (self._outstanding or not self._session.idle):
            return self._error
        waited_s = self._clock.monotonic_s() - self._progress_s
        if self._outstanding and waited_s > _STALLED_S:
            return f"no acknowledgement for {waited_s:.0f} s"
        return ""

    # ---- one send that was queued at once: the usual case, without what the others need ----------------------------

    def _queue_now(self, record: Record) -> _Try | None:
        """None: something has to be waited for, and nothing was queued. Raises RecordTooLarge."""
        if (session := self._session) is None:
            return None
        self._check_size(record)
        future = session.append_now(record)
        return None if future is None else _Try(session, future)

    def _tell(self, session: ProducerSession, told: Callable[[bool], None], answer: asyncio.Future[Any]) -> None:
        self._outstanding -= 1
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        if error is None:
            self._acknowledged()
        elif isinstance(error, KafkaError):
            self._replace(session, error)
        told(error is None)

    async def _await(self, record: Record, attempt: _Try, timeout_s: float | None) -> Source:
        ends_s = None if timeout_s is None else attempt.future.get_loop().time() + timeout_s
        waiting = None if ends_s is None else self._deadlines.add(attempt.future, ends_s)
        if not self._outstanding:
            self._progress_s = self._clock.monotonic_s()
        self._outstanding += 1
        try:
            written = await attempt.future
            self._acknowledged()
            return Source(record.topic, written.partition, written.offset)
        except TimeoutError:
            self._error = self._error or f"no acknowledgement within {timeout_s} s"
            raise NotConfirmed(self._error) from None
        except KafkaError:
            return await self._finish_by(ends_s, record, attempt)
        finally:
            self._outstanding -= 1
            if waiting is not None:
                waiting.discard(attempt.future)

    async def _finish_by(self, ends_s: float | None, record: Record, attempt: _Try) -> Source:
        """The session ended: the rest of the time on the next ones."""
        try:
            async with asyncio.timeout_at(ends_s):
                return await self._finish(record, attempt)
        except TimeoutError:
            raise NotConfirmed(self._error) from None

    # ---- one send -------------------------------------------------------------------------------------------------

    def _check_size(self, record: Record) -> None:
        limit = self._limits.get(record.topic)
        if limit is None:
            limit = self._limits[record.topic] = max_record_bytes(record.topic, self._settings)
        # Headers have a room of their own within the limit, which ours keep to: counted beside a large value only.
        if len(record.value or b"") + HEADER_ROOM_BYTES > limit and record.size_bytes > limit:
            raise RecordTooLarge(f"{record.size_bytes} bytes for {record.topic}, which takes {limit}")

    async def _write(self, records: Sequence[Record]) -> list[Source]:
        tries: list[_Try] = []
        try:
            for record in records:
                tries.append(await self._queue(record))  # noqa: PERF401  what is queued must be known to `finally`
            return [await self._finish(record, tries[i]) for i, record in enumerate(records)]
        finally:
            for _, future in tries:
                if future.done() and not future.cancelled():
                    future.exception()  # seen, else it is logged as forgotten
                else:
                    future.cancel()

    async def _queue(self, record: Record, *, alone: bool = False) -> _Try:
        failures = 0
        while True:
            if not alone and (queued := self._queue_now(record)):
                return queued
            session = self._session or await self._connected()
            try:
                return _Try(session, await session.append(record, alone=alone))
            except KafkaError as error:
                if isinstance(error, _NOT_QUEUED):
                    self._error = f"{record.topic}: {_one_line(error)}"
                else:
                    self._replace(session, error)
            failures += 1
            await self._clock.sleep(_pause_s(failures))

    async def _finish(self, record: Record, attempt: _Try) -> Source:
        """Wait for the acknowledgement; a send whose session ended is repeated on the next one."""
        failures, alone = 0, False
        while True:
            try:
                written = await attempt.future
            except KafkaError as error:
                self._replace(attempt.session, error)
                if isinstance(error, _TOO_LARGE) and alone:
                    raise RecordTooLarge(f"the broker refused {record.size_bytes} bytes for {record.topic}") from None
                alone = alone or isinstance(error, _TOO_LARGE)
            else:
                self._acknowledged()
                return Source(record.topic, written.partition, written.offset)
            await self._clock.sleep(_pause_s(failures))
            failures += 1
            attempt = await self._queue(record, alone=alone)

    def _acknowledged(self) -> None:
        self._error = ""
        self._unlucky = 0
        self._progress_s = self._clock.monotonic_s()

    # ---- sessions -------------------------------------------------------------------------------------------------

    def _replace(self, session: ProducerSession, error: KafkaError) -> None:
        """End a session at its first failure; the failures after the first find it gone."""
        if session is not self._session:
            return
        self._error = _one_line(error)
        log.warning("producer replaced", extra={"error": self._error})
        self._session = None
        closing = asyncio.create_task(session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        """A new session, however long it takes."""
        while self._session is None:
            await self._clock.sleep(_pause_s(self._unlucky))
            self._unlucky += 1
            session = ProducerSession(self._settings)
            try:
                await session.connect(_CONNECT_S)
            except (KafkaError, OSError, TimeoutError) as error:
                self._error = _one_line(error)
                log.warning("producer not connected", extra={"error": self._error})
            else:
                self._session = session

    async def _connected(self) -> ProducerSession:
        while self._session is None:
            if self._stopped:
                raise NotConfirmed("the producer is stopped")
            if self._connecting is None:
                raise InvariantBroken("a send before start()")
            await asyncio.wait([self._connecting])
            if self._session is None and not self._connecting.cancelled() and self._connecting.done():
                self._connecting.result()
        return self._session


def _pause_s(failures: int) -> float:
    """0, then 50 ms and doubling to 1.6 s."""
    return 0.0 if failures <= 0 else min(0.05 * 2.0 ** min(failures - 1, 5), 1.6)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
