"""Rules of the lanes that hold whatever endpoints do, in whatever order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from hypothesis import example, given
from hypothesis import strategies as st

from delivery_stream.lane import Health, Lane
from delivery_stream.lanes import Lanes, Verdict
from delivery_stream.token_bucket import TokenBucket

SLOTS = 12
HEALTHS: st.SearchStrategy[Health] = st.sampled_from(["works", "throttles", "times_out", "fails", "unknown"])
#: (what happens, which endpoint or request, seconds until then)
STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "end", "tick"]), st.integers(0, 5), st.floats(0, 3)), max_size=120
)


@dataclass(eq=False)
class Entry:
    endpoint: str
    queued_s: float = 0.0
    timeout_s: float = 10.0
    size_bytes: int = 100
    waits: int = 0


@given(STEPS, st.data())
def test_every_record_starts_waits_or_is_put_off_exactly_once_and_the_bounds_hold(
    steps: list[tuple[str, int, float]], data: st.DataObject
) -> None:
    lanes: Lanes[Entry] = Lanes(max_in_flight=SLOTS, max_per_endpoint=6, patience_s=1.0)
    under_way: list[Entry] = []
    sent, started, put_off, ended, now_s = 0, 0, 0, 0, 0.0
    for what, number, later_s in steps:
        now_s += later_s
        if what == "send":
            entry, lane = Entry(f"endpoint-{number}"), lanes.lane(f"endpoint-{number}", now_s)
            verdict = lanes.admit(entry, lane, now_s)
            sent += verdict is not Verdict.FULL
            if verdict is Verdict.START:
                apart_before = lanes.apart
                lanes.start(entry, lane, now_s)
                assert lanes.apart == apart_before or lanes.apart <= SLOTS // 2
                under_way.append(entry)
                started += 1
            elif verdict is Verdict.WAIT:
                put_off += 1
                assert lanes.put_off(entry, lane, now_s).wait_s >= 0
        elif what == "end" and under_way:
            entry = under_way.pop(number % len(under_way))
            ended += 1
            lanes.ended(entry, data.draw(HEALTHS), now_s)
            lanes.confirmed()
        else:
            put_off += sum(1 for _ in lanes.tick(now_s))
        fresh = list(lanes.startable(now_s))
        under_way += fresh
        started += len(fresh)
        assert lanes.in_flight == len(under_way) == started - ended <= SLOTS
        assert sent == started + put_off + lanes.waiting
        assert lanes.waiting == sum(len(lane.queue) for lane in lanes)
        assert lanes.waiting_bytes == 100 * lanes.waiting
        assert lanes.apart == sum(lane.in_flight for lane in lanes if lane.apart)
        assert lanes.overdue == sum(lane.overdue for lane in lanes)
        assert all(lane.in_flight <= 6 for lane in lanes)


#: (seconds until then, how many want to go)
DEMANDS = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2000)), min_size=1, max_size=100)


@given(st.floats(0.01, 1000), DEMANDS)
@example(100.0, [(5.0, 2000), (0.0, 2000)])
@example(0.6, [(5.0, 2000), (5.0, 2000)])
def test_a_receiver_sees_no_more_than_rate_times_time_and_one_burst_in_any_window(
    rate: float, demands: list[tuple[float, int]]
) -> None:
    bucket, now_s, times_s = TokenBucket(rate, 0.0), 0.0, list[float]()
    for later_s, wanted in demands:
        now_s += later_s
        for _ in range(wanted):
            if bucket.wait_s(now_s) > 0 or len(times_s) == 5000:
                break
            bucket.take(now_s)
            times_s.append(now_s)
    assert sum(time_s == 0 for time_s in times_s) <= 1, "whoever had the endpoint before may have spent the burst"
    # Of the windows that end with a request, the worst begins with the one most ahead of the rate's pace before it.
    ahead = [number - rate * time_s for number, time_s in enumerate(times_s)]
    for last, worst in zip(ahead, accumulate(ahead, min), strict=True):
        assert last + 1 - worst <= max(rate, 1.0) + 1e-6


@given(st.floats(0.1, 100), st.integers(1, 200))
def test_booked_times_are_no_closer_than_the_rate_allows(rate: float, records: int) -> None:
    lane: Lane[Entry] = Lane("endpoint", 100, 0.0)
    lane.limit(rate, 100, 0.0)
    times = [lane.book(0.0, 0) for _ in range(records)]
    assert times == sorted(times)
    assert times[-1] >= (records - 1) / rate - 1e-6 or times[-1] >= 24 * 3600
