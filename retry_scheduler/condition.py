"""Whether the scheduler is live and ready: what it last saw of Kafka, of its group, and of its own progress."""

from __future__ import annotations

from collections.abc import Mapping

from shared.clock import Clock

#: Something due and no progress for this long, with Kafka in reach: we are stuck.
_STUCK_AFTER_S = 30.0


class Condition:
    """Written by the forwarder, read by /live and /ready."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moved_s = clock.monotonic_s()
        self._broker = "not asked yet"
        self.assigned = False
        #: The first alarm in one line; it stays until the process is started again.
        self.skipped = ""

    def progress(self) -> None:
        """Something was forwarded."""
        self._moved_s = self._clock.monotonic_s()

    def broker(self, trouble: str) -> None:
        """What Kafka answered: "" when all is well. A time out of reach does not count as ours."""
        if self._broker and not trouble:
            self.progress()
        self._broker = trouble

    def live(self, oldest_due_ms: int | None) -> Mapping[str, str]:
        """Stuck: something has been due for long, Kafka is there, and nothing moves."""
        if oldest_due_ms is None or self._broker:
            return {}
        overdue_s = (self._clock.now_ms() - oldest_due_ms) / 1000
        quiet_s = self._clock.monotonic_s() - self._moved_s
        if min(overdue_s, quiet_s) <= _STUCK_AFTER_S:
            return {}
        return {"forwarding": f"a record is overdue by {overdue_s:.0f} s and nothing moved for {quiet_s:.0f} s"}

    def ready(self, producer_trouble: str) -> Mapping[str, str]:
        """Kafka answers, our share of the tiers is known, and nothing was skipped."""
        troubles = {
            "kafka": self._broker or producer_trouble,
            "assignment": "" if self.assigned else "no partitions assigned yet",
            "records_skipped": self.skipped,
        }
        return {name: text for name, text in troubles.items() if text}
