"""Where an event stands: a question to the attempt log.

The log is written behind the stream, so an id that it lacks is compared with how far the sink has read: not past the
id's own time yet means waiting a moment, and only past it means that there is no such event.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter

from ingest_api.openapi import problems
from ingest_api.permissions import Caller, Reader
from ingest_api.problems import not_found, store_unavailable
from ingest_api.recent import Accepted, RecentlyAccepted
from ingest_api.status_shapes import EventStatus
from shared.attempt_log import AttemptLog, LoggedDelivery, LoggedEvent
from shared.clock import Clock
from shared.errors import StoreUnavailable
from shared.record_ids import uuid7_ms
from shared.subscriptions import canonical_id

_WAIT_S = 2.0
_POLL_S = 0.1
#: Callers that wait for the sink at once; more are answered with what is known.
_MOST_WAITING = 100
#: Clocks of two machines may differ by so much; an id from later than that is nobody's.
_CLOCK_SKEW_MS = 60_000
_LONGEST_ID = 1024


@dataclass(slots=True)
class StatusReader:
    """Answers for one webhook id."""

    attempt_log: AttemptLog
    recent: RecentlyAccepted
    clock: Clock
    _waiting: int = 0

    async def status(self, text: str, caller: Caller) -> EventStatus:
        """Problem 404: there is none. Problem 503: nobody can tell now. Another tenant's is as unknown as none."""
        webhook_id = _known_form(text)
        accepted_ms = uuid7_ms(webhook_id)
        deadline_s = self.clock.monotonic_s() + (_WAIT_S if self._waiting < _MOST_WAITING else 0)
        self._waiting += 1
        try:
            while True:
                state, watermark_ms = await self._look(webhook_id, caller)
                if state is not None:
                    return EventStatus.of_event(state) if isinstance(state, LoggedEvent) else EventStatus.of(state)
                queued = self._not_in_the_log(webhook_id, caller, accepted_ms, watermark_ms)
                if self.clock.monotonic_s() >= deadline_s:
                    return queued
                await self.clock.sleep(_POLL_S)
        except StoreUnavailable:
            return self._from_memory(webhook_id, caller)
        finally:
            self._waiting -= 1

    async def _look(self, webhook_id: str, caller: Caller) -> tuple[LoggedDelivery | LoggedEvent | None, int]:
        """The watermark is read first: what it has passed must be in the log when that is read."""

        def ask() -> tuple[LoggedDelivery | LoggedEvent | None, int]:
            watermark_ms = self.attempt_log.watermark_ms()
            state = self._logged(webhook_id, caller.tenant)
            if state is None and caller.tenant is not None and self._logged(webhook_id, None) is not None:
                raise not_found("event")  # another tenant's: not even `queued` is said of it
            return state, watermark_ms

        return await asyncio.to_thread(ask)

    def _logged(self, webhook_id: str, tenant: str | None) -> LoggedDelivery | LoggedEvent | None:
        log = self.attempt_log
        return log.delivery(webhook_id, tenant=tenant) or log.event(webhook_id, tenant=tenant)

    def _not_in_the_log(
        self, webhook_id: str, caller: Caller, accepted_ms: int | None, watermark_ms: int
    ) -> EventStatus:
        """Queued as far as anyone knows; Problem 404 when the sink would have seen it."""
        accepted = self._accepted(webhook_id, caller)
        if accepted is not None:
            return EventStatus.queued(webhook_id, accepted)
        latest_ms = self.clock.now_ms() + _CLOCK_SKEW_MS
        if accepted_ms is None or not watermark_ms <= accepted_ms <= latest_ms:
            raise not_found("event")
        return EventStatus.unseen(webhook_id, accepted_ms, watermark_ms)

    def _from_memory(self, webhook_id: str, caller: Caller) -> EventStatus:
        accepted = self._accepted(webhook_id, caller)
        if accepted is None:
            raise store_unavailable()
        return EventStatus.queued(webhook_id, accepted)

    def _accepted(self, webhook_id: str, caller: Caller) -> Accepted | None:
        """Problem 404 when it was accepted here for another tenant."""
        accepted = self.recent.get(webhook_id)
        if accepted is not None and not caller.sees(accepted.tenant):
            raise not_found("event")
        return accepted


def router(reader: StatusReader) -> APIRouter:
    """One route."""
    routes = APIRouter(tags=["status"])

    @routes.get("/status/{webhook_id}", responses=problems(404))
    async def status(webhook_id: str, caller: Reader) -> EventStatus:
        """Where an event stands, from the moment of its 202."""
        return await reader.status(webhook_id, caller)

    return routes


def _known_form(text: str) -> str:
    """UUIDs in their one spelling; other producers' ids as they are. Problem 404 for what cannot be an id."""
    if len(text) > _LONGEST_ID or not text.isprintable() or not text.isascii():
        raise not_found("event")
    return canonical_id(text) or text
