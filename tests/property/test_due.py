"""Rules of the waiting records that hold in whatever order they come, wait and go."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from retry_scheduler.due import Due, Held, Limits, Partition

PARTITIONS = [Partition(f"retry-{number}s", number) for number in range(3)]
LIMITS = Limits(records=8, total_bytes=3_000, ahead_ms=50)

#: (which partition, how many records, how far ahead they are due, bytes each), or a step of time.
fetches = st.tuples(st.sampled_from(PARTITIONS), st.integers(1, 6), st.integers(-20, 200), st.integers(1, 700))
steps = st.lists(st.one_of(fetches, st.integers(0, 120)), max_size=40)


@dataclass
class Run:
    """A consumer that fetches only what is not paused, and what came out of the queue."""

    due: Due[int] = field(default_factory=lambda: Due(LIMITS))
    now_ms: int = 1_000
    paused: set[Partition] = field(default_factory=set)
    added: dict[Partition, list[Held[int]]] = field(default_factory=lambda: {p: [] for p in PARTITIONS})
    taken: dict[Partition, list[Held[int]]] = field(default_factory=lambda: {p: [] for p in PARTITIONS})

    def step(self, step: tuple[Partition, int, int, int] | int, most: int) -> None:
        if isinstance(step, int):
            self.now_ms += step
            self.take(most)
        elif step[0] not in self.paused:
            self.fetch(*step)
        changes = self.due.fetching(self.now_ms)
        assert not self.paused & set(changes.pause)
        assert self.paused >= set(changes.resume)
        self.paused = (self.paused | set(changes.pause)) - set(changes.resume)

    def fetch(self, partition: Partition, count: int, ahead_ms: int, size_bytes: int) -> None:
        first = len(self.added[partition])
        due_ms = self.now_ms + ahead_ms
        records = [Held(partition, first + n, due_ms + n, size_bytes, first + n) for n in range(count)]
        self.added[partition] += records
        self.due.add(records)

    def take(self, most: int) -> None:
        for held in self.due.take(self.now_ms, most):
            assert held.due_ms <= self.now_ms, "early"
            self.taken[held.partition].append(held)


@given(steps, st.integers(1, 10))
def test_every_record_goes_once_in_order_and_never_early(
    actions: list[tuple[Partition, int, int, int] | int], most: int
) -> None:
    run = Run()
    run.due.assign(PARTITIONS)
    for action in actions:
        run.step(action, most)
    # Whatever is left: time passes from one look to the next, and it all goes.
    while run.due.held:
        look_ms = run.due.next_look_ms()
        assert look_ms is not None, "records wait and nobody will look"
        run.now_ms = max(run.now_ms, look_ms)
        run.step(0, most)
    assert run.taken == run.added
    assert run.paused == set(), "an empty partition is always fetched"


@given(steps, st.integers(1, 10))
def test_what_is_fetched_beyond_the_limits_is_one_fetch_at_most(
    actions: list[tuple[Partition, int, int, int] | int], most: int
) -> None:
    run = Run()
    run.due.assign(PARTITIONS)
    for action in actions:
        run.step(action, most)
        assert run.due.held < len(PARTITIONS) * (LIMITS.records + 6)
        assert run.due.size_bytes < LIMITS.total_bytes + len(PARTITIONS) * 6 * 700
