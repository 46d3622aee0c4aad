"""Requests that are over, until Kafka has confirmed what follows from them (docs/decisions/0013)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from delivery_stream.cohort import Cohort
from delivery_stream.conclusion import Conclusion
from delivery_stream.deliver import Ended
from delivery_stream.under_way import Entry, UnderWay
from shared.records import Record


class Concludes(Protocol):
    """``send_soon`` is the producer's."""

    def conclude(self, ended: Sequence[Ended]) -> Sequence[Conclusion]: ...
    def send_soon(self, record: Record, told: Callable[[bool], None]) -> bool: ...


class Confirmations:
    """``add`` each; all of one turn of the loop are concluded together, and each is done when its own is confirmed."""

    def __init__(self, io: Concludes, under_way: UnderWay, let_go: Callable[[Entry, bool], None]) -> None:
        """``let_go`` hears of each whether its attempt is finished, once nothing of it is under way any more."""
        self._io = io
        self._under_way = under_way
        self._let_go = let_go
        self._ended = Cohort(self._conclude)
        self._sent = 0

    @property
    def ended(self) -> int:
        """How many are to be concluded."""
        return len(self._ended)

    @property
    def sent(self) -> int:
        """Records that Kafka has not confirmed yet and no task waits for."""
        return self._sent

    def add(self, entry: Entry, ended: Ended) -> None:
        self._ended.add((entry, ended))

    def conclude_all(self) -> None:
        """Now, in this turn of the loop."""
        self._ended.handle_all()

    def _conclude(self, several: Sequence[tuple[Entry, Ended]]) -> None:
        try:
            self._conclude_these(several)
        except Exception as error:  # noqa: BLE001 - the loop would only log it
            self._under_way.fail(error)

    def _conclude_these(self, several: Sequence[tuple[Entry, Ended]]) -> None:
        try:
            conclusions = self._io.conclude([ended for _, ended in several])
        except Exception as error:  # noqa: BLE001 - as above
            if len(several) > 1:
                # Whose it is shows alone: the others' requests shall not be made again.
                for one in several:
                    self._conclude_these([one])
                return
            self._let_go(several[0][0], False)
            self._under_way.fail(error)
            return
        for (entry, _), conclusion in zip(several, conclusions, strict=True):
            record = conclusion.record
            if record is not None and self._io.send_soon(record, partial(self._told, entry, conclusion)):
                entry.held.out += 1
                self._sent += 1
            else:
                self._under_way.start(self._publish(entry, conclusion), entry.held)

    def _told(self, entry: Entry, conclusion: Conclusion, is_confirmed: bool) -> None:
        """What Kafka says to the one record; when it does not confirm it, all that follows is published anew."""
        entry.held.out -= 1
        self._sent -= 1
        try:
            if is_confirmed:
                conclusion.confirmed()
                self._under_way.done(entry)
                self._let_go(entry, conclusion.finished)
            else:
                self._under_way.start(self._publish(entry, conclusion), entry.held)
        except Exception as error:  # noqa: BLE001 - the loop would only log it
            self._under_way.fail(error)
        if entry.held.closing:
            self._under_way.changed.set()

    async def _publish(self, entry: Entry, conclusion: Conclusion) -> None:
        finished = False
        try:
            await conclusion.publish()
            finished = conclusion.finished
        finally:
            self._let_go(entry, finished)
        self._under_way.done(entry)
