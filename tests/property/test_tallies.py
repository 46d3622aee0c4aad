"""What one thread counts is shown as the library would show it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from shared.tallies import Spread, Tally

_BOUNDS = (0.005, 0.5, 1, 10)
disable_created_metrics()  # type: ignore[no-untyped-call]


@given(st.lists(st.sampled_from(["a", "b"])))
def test_a_tally_is_a_counter(counted: list[str]) -> None:
    ours, library = CollectorRegistry(), CollectorRegistry()
    tally = Tally("things", "Things.", "kind", ["a", "b"], registry=ours)
    counter = Counter("things", "Things.", ["kind"], registry=library)
    children = {kind: counter.labels(kind) for kind in ("a", "b")}
    for kind in counted:
        tally.inc(kind)
        children[kind].inc()
    assert generate_latest(ours) == generate_latest(library)


@given(st.lists(st.sampled_from(_BOUNDS) | st.floats(0, 1e6)))
def test_a_spread_is_a_histogram(observed: list[float]) -> None:
    ours, library = CollectorRegistry(), CollectorRegistry()
    spread = Spread("wait_seconds", "Waits.", _BOUNDS, registry=ours)
    histogram = Histogram("wait_seconds", "Waits.", buckets=_BOUNDS, registry=library)
    for one in observed:
        spread.observe(one)
        histogram.observe(one)
    assert generate_latest(ours) == generate_latest(library)
