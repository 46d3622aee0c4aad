"""The garbage collector of a process that answers or delivers for long."""

from __future__ import annotations

import gc

#: Objects that came and did not go, between two looks of the garbage collector. About 10 MB.
_COLLECT_EVERY = 50_000


def calm_collector() -> None:
    """Look for cycles less often, and not among what lives as long as the process. Call it when all is started.

    What waits for the broker or an endpoint outlives the default's 700 allocations, so that every few requests all that
    wait were walked through: a fifth of the time. Requests and deliveries leave no cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 10, 10)
