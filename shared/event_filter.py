"""Pure: what an event type may be, and whether a subscription's filters want one. Ingest and fan-out both ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

LONGEST = 256
#: Types that we make ourselves, about the tenant's own subscriptions.
OPERATIONAL = "hooklog."
#: What may become an HTTP header on the way out: visible ASCII, spaces inside.
_TYPE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


@lru_cache(maxsize=1024)
def is_event_type(text: str) -> bool:
    """1 to 256 visible ASCII characters, spaces inside only."""
    return _TYPE.fullmatch(text) is not None


def is_filter(text: str) -> bool:
    """An exact type, or a prefix and ``.*``; a star stands nowhere else."""
    exact = text.removesuffix(".*")
    return len(text) <= LONGEST and is_event_type(exact) and "*" not in exact


def is_operational(event_type: str | None) -> bool:
    """Whether it is about Hooklog itself: only who names such a type, or ``hooklog.*``, gets it."""
    return event_type is not None and event_type.startswith(OPERATIONAL)


def wants(filters: Sequence[str], event_type: str | None) -> bool:
    """Whether a filter matches: exactly, or ``order.*`` everything that begins with ``order.``.

    No filter wants all but operational ones; an event without a type (a plain Kafka client's) is wanted by no filter.
    """
    if not filters:
        return not is_operational(event_type)
    return event_type is not None and any(_matches(one, event_type) for one in filters)


def _matches(one: str, event_type: str) -> bool:
    return event_type.startswith(one[:-1]) if one.endswith(".*") else one == event_type
