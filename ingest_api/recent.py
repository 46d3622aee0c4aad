"""A bounded memory of what this process accepted lately, so that its status is known before the attempt log has it."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

#: About 10 MB, and ten seconds at 2,000 events/s: the sink is usually 0.2 s behind.
MOST = 20_000


class Accepted(NamedTuple):
    """One event answered 202."""

    #: None: an event of /events, for nobody in particular.
    subscription_id: str | None
    tenant: str
    event_type: str | None
    accepted_ms: int


class RecentlyAccepted:
    """The newest ``most`` accepted events by webhook id."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._by_id: OrderedDict[str, Accepted] = OrderedDict()

    def add(self, webhook_id: str, accepted: Accepted) -> None:
        self._by_id[webhook_id] = accepted
        if len(self._by_id) > self._most:
            self._by_id.popitem(last=False)

    def get(self, webhook_id: str) -> Accepted | None:
        return self._by_id.get(webhook_id)
