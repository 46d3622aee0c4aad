"""How many bytes a second the events of a tenant may become. Pure but for the clock that is passed in; bounded."""

from __future__ import annotations

from collections import OrderedDict

#: What an idle tenant may send at once, in seconds of its rate.
_BURST_S = 2.0
_MOST_TENANTS = 10_000


class FanOutBudget:
    """One token bucket for each tenant; a full one and no more for those not seen lately."""

    def __init__(self, bytes_per_second: int) -> None:
        """0: no limit."""
        self._rate = bytes_per_second
        #: Bytes left, possibly less than none, and when that was so.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, tenant: str, size_bytes: int, now_s: float) -> float:
        """0: go on, it is spent; else nothing is spent, and there will be something again in so many seconds.

        Whoever has anything left may spend all of this event: an event larger than the bucket makes a debt.
        """
        if not self._rate:
            return 0.0
        full = self._rate * _BURST_S
        left, at_s = self._buckets.pop(tenant, (full, now_s))
        left = min(full, left + (now_s - at_s) * self._rate)
        allowed = left > 0
        self._buckets[tenant] = (left - size_bytes if allowed else left, now_s)
        if len(self._buckets) > _MOST_TENANTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else max(-left / self._rate, 0.001)
