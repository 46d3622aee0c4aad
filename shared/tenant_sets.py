"""Pure: who of a tenant wants what, complete sets kept true by the change feed. Bounded by tenants and by entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from shared.subscription import Change


class Interest(NamedTuple):
    """What fan-out needs of a subscription that is not deleted, whatever its status: no secret is in it."""

    subscription_id: str
    event_types: tuple[str, ...]


@dataclass(slots=True)
class _Set:
    """Complete as of ``version``, and every later change that the feed has shown is in it."""

    version: int
    interests: dict[str, Interest]


class TenantSets:
    """The complete sets of the tenants that were asked for lately."""

    def __init__(self, most_tenants: int = 1_000, most_entries: int = 50_000) -> None:
        """About 10 MB. The set asked for last is kept whatever its size: a set is complete or it is no set."""
        self._most_tenants = most_tenants
        self._most_entries = most_entries
        self._sets: OrderedDict[str, _Set] = OrderedDict()
        self._entries = 0

    def get(self, tenant: str) -> tuple[Interest, ...] | None:
        """The tenant's complete set; None: it is not in memory."""
        found = self._sets.get(tenant)
        if found is None:
            return None
        self._sets.move_to_end(tenant)
        return tuple(found.interests.values())

    def put(self, tenant: str, version: int, interests: Iterable[Interest]) -> None:
        """A set that holds every change up to ``version``, which is no less than what the feed has shown."""
        self._drop(tenant)
        self._sets[tenant] = _Set(version, {one.subscription_id: one for one in interests})
        self._entries += len(self._sets[tenant].interests)
        while len(self._sets) > 1 and (len(self._sets) > self._most_tenants or self._entries > self._most_entries):
            self._drop(next(iter(self._sets)))

    def apply(self, change: Change) -> None:
        """One step of the feed. It does not say whose a deleted subscription was: it is taken out wherever it is."""
        tenant = change.sealed.tenant if change.sealed else None
        for name, one in self._sets.items():
            if change.version <= one.version:
                continue
            before = len(one.interests)
            if change.sealed is not None and name == tenant:
                one.interests[change.id] = Interest(change.id, change.sealed.event_types)
            else:
                one.interests.pop(change.id, None)
            self._entries += len(one.interests) - before

    def clear(self) -> None:
        self._sets.clear()
        self._entries = 0

    def _drop(self, tenant: str) -> None:
        gone = self._sets.pop(tenant, None)
        if gone is not None:
            self._entries -= len(gone.interests)
