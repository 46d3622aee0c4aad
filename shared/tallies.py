"""A counter and a histogram that one thread counts in, many thousand times a second.

The library's own are for any number of threads: an increment takes ten times as long as these, an observation five.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally(Collector):
    """A counter by the value of its one label. All values are there from the start, as 0."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label: str,
        values: Iterable[str],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._family = name, documentation, label
        self._counts = dict.fromkeys(values, 0)
        registry.register(self)

    def inc(self, value: str) -> None:
        """One more. Raises KeyError for a value that was not named."""
        self._counts[value] += 1

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        name, documentation, label = self._family
        family = CounterMetricFamily(name, documentation, labels=[label])
        for value, count in self._counts.items():
            family.add_metric([value], count)
        yield family


class Spread(Collector):
    """A histogram without labels. A bucket holds what is at most its bound; the last one has none."""

    def __init__(
        self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._family = name, documentation
        self._bounds = (*map(float, buckets), float("inf"))
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        buckets = zip(map(floatToGoString, self._bounds), accumulate(self._counts), strict=True)
        yield HistogramMetricFamily(*self._family, buckets=list(buckets), sum_value=self._sum)
