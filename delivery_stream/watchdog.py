"""Pure: whether a worker that runs does its work. A no fails its liveness, and it is started again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Longer than a rebalance with everything in flight takes. Nothing at all for so long: something is stuck.
STANDSTILL_S = 120.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """Times are seconds of the monotonic clock."""

    now_s: float
    #: When the loop that fetches last came round; it does so at least once a second while it has partitions.
    turned_s: float
    #: When a record was last finished, or partitions assigned.
    progress_s: float
    #: When the group last answered a heartbeat.
    heartbeat_s: float
    #: Records received and not finished, and records that could be fetched.
    work: int
    #: How far the oldest request is beyond twice its deadline; 0 or less: it is not.
    overdue_s: float
    #: Kafka is out of reach: waiting is right.
    kafka_trouble: str


def stuck(vitals: Vitals) -> Mapping[str, str]:
    """What stands still, by name, and for how long; empty when all is well."""
    found: dict[str, str] = {}
    if vitals.overdue_s > 0:
        found["request"] = f"one has been under way for {vitals.overdue_s:.0f} s beyond twice its deadline"
    if vitals.kafka_trouble:
        return found
    idle_s, quiet_s = vitals.now_s - vitals.progress_s, vitals.now_s - vitals.turned_s
    if vitals.work and idle_s > STANDSTILL_S:
        found["progress"] = f"nothing was finished for {idle_s:.0f} s, and {vitals.work} records wait"
    if min(idle_s, quiet_s) > STANDSTILL_S:
        found["fetching"] = f"nothing was fetched for {quiet_s:.0f} s"
    if vitals.now_s - vitals.heartbeat_s > STANDSTILL_S:
        found["group"] = f"the group has not answered for {vitals.now_s - vitals.heartbeat_s:.0f} s"
    return found
