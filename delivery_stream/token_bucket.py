"""Pure: a token bucket in its virtual form (GCRA, ITU-T I.371): one number instead of tokens that are refilled."""

from __future__ import annotations


class TokenBucket:
    """So many a second and, after a quiet second, a burst of a second's worth; at least one.

    It starts with one token: whoever had the endpoint before may have spent the burst.
    """

    __slots__ = ("_full_s", "_tolerance_s", "interval_s", "rate")

    def __init__(self, rate: float, now_s: float) -> None:
        """``rate``: a second, above 0."""
        self.rate = rate
        #: Between two requests at this rate.
        self.interval_s = 1.0 / rate
        self._tolerance_s = max(1.0 - self.interval_s, 0.0)
        #: When the bucket would be full if nothing more were taken.
        self._full_s = now_s + self._tolerance_s

    def wait_s(self, now_s: float) -> float:
        """Until the next token; 0: there is one."""
        return max(self._full_s - self._tolerance_s - now_s, 0.0)

    def take(self, now_s: float) -> None:
        """One request starts."""
        self._full_s = max(self._full_s, now_s) + self.interval_s
