"""Topic names, keys, and the retry tiers. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from aiokafka.partitioner import murmur2

#: Room for our headers on top of a payload (DESIGN: sizes); dead letters get the same again for their reason.
HEADER_ROOM_BYTES = 64 * 1024

#: Tiers beside those of the retries, for what must wait for its turn: a retry's first delay is too coarse for that.
WAIT_DELAYS_S = (1, 4)

_DELAY = re.compile(r"(\d{1,9})(s|m|h)?")
_UNIT_S = {None: 1, "s": 1, "m": 60, "h": 3600}
_LONGEST_DELAY_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one installation, all under one prefix."""

    prefix: str

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def deliveries(self) -> str:
        return f"{self.prefix}deliveries"

    @property
    def parked(self) -> str:
        return f"{self.prefix}parked"

    @property
    def dead_letter(self) -> str:
        return f"{self.prefix}dead-letter"

    @property
    def attempts(self) -> str:
        return f"{self.prefix}attempts"

    def tier(self, delay_s: int) -> str:
        """The retry topic whose records wait ``delay_s`` seconds."""
        return f"{self.prefix}retry-{delay_s}s"

    @property
    def tier_pattern(self) -> str:
        """A regular expression for every tier, those no longer in the settings too."""
        return rf"^{re.escape(self.prefix)}retry-\d+s$"

    def delay_s(self, topic: str) -> int | None:
        """The delay in a tier's name; None for any other topic."""
        match = re.fullmatch(rf"{re.escape(self.prefix)}retry-(\d+)s", topic)
        return int(match[1]) if match else None

    def group(self, role: str) -> str:
        """The consumer group of one role (``delivery-stream``, ``retry-scheduler``, ``attempt-sink``)."""
        return f"{self.prefix}{role}"


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How long to wait after each failed attempt: ``delays_s[0]`` after the first. Attempts allowed = delays + 1."""

    delays_s: tuple[int, ...]

    @property
    def attempts_allowed(self) -> int:
        return len(self.delays_s) + 1

    def tier_after(self, attempt: int, at_least_s: float = 0) -> int | None:
        """The delay of the tier that follows failed attempt ``attempt`` (from 1), None after the last.

        ``at_least_s`` may choose a longer tier and changes no count; the longest one is the most there is.
        """
        if attempt > len(self.delays_s):
            return None
        own_s = self.delays_s[max(attempt, 1) - 1]
        return own_s if own_s >= at_least_s else self.tier_for(at_least_s)

    def tier_for(self, wait_s: float) -> int | None:
        """The smallest tier of at least ``wait_s`` seconds, else the longest; None when there are no tiers."""
        enough = [delay_s for delay_s in self.delays_s if delay_s >= wait_s]
        return min(enough) if enough else max(self.delays_s, default=None)

    @property
    def tiers_s(self) -> tuple[int, ...]:
        """All tiers there are, the shortest first."""
        return tuple(sorted({*self.delays_s, *WAIT_DELAYS_S}))

    def wait_tier(self, wait_s: float) -> int:
        """The longest tier within ``wait_s``, else the shortest: the rest is waited for in shorter and shorter ones."""
        tiers_s = self.tiers_s
        return max((delay_s for delay_s in tiers_s if delay_s <= wait_s), default=tiers_s[0])

    def rough_tier(self, wait_s: float) -> int:
        """One tier for a wait that is a guess itself: 2.5 s to the point would be three hops through the tier of 1 s.

        The smallest of at least ``wait_s`` where that is not much longer, else the one before it.
        """
        enough_s = min((delay_s for delay_s in self.tiers_s if delay_s >= wait_s), default=math.inf)
        return int(enough_s) if enough_s <= max(2 * wait_s, WAIT_DELAYS_S[-1]) else self.wait_tier(wait_s)


def parse_delay(text: str) -> int:
    """``"10s"``, ``"10"``, ``"5m"``, ``"2h"`` -> seconds, 1 s to 7 days. Raises ValueError."""
    match = _DELAY.fullmatch(text.strip())
    delay_s = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 1 <= delay_s <= _LONGEST_DELAY_S:
        raise ValueError(f"{text!r} is not a delay of 1s to 168h, such as 10s, 5m or 2h")
    return delay_s


@lru_cache(maxsize=65536)
def home_partition(subscription_id: str, partitions: int) -> int:
    """Where Kafka's default partitioner puts this key."""
    return partition_of(subscription_id.encode(), partitions)


def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's default partitioner: murmur2."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
