"""A job never publishes faster than its rate, and reaches it, however irregular its steps are."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from retry_scheduler.replay_job import LEAST_RECORDS, STEP_EVERY, STEP_RECORDS, UNFINISHED_MOST, Progress, sort_parked
from tests.unit.test_replay_job import NOW, ONE, OTHER, job, parked

rates = st.floats(0.01, 400)
#: Seconds between two steps: on time, late, and after a crash.
gaps = st.lists(st.floats(0, 0.4) | st.floats(0, 30), min_size=1, max_size=40)


@given(rates, gaps, st.data())
def test_a_rate_is_kept_whatever_the_steps_are(rate: float, gaps: list[float], data: st.DataObject) -> None:
    """At most rate x time + one second's worth, and never fewer than one record a turn."""
    going, published, first = job(rate=rate), 0, NOW
    for gap in gaps:
        going = replace(going, now=going.now + timedelta(seconds=gap))
        count = data.draw(st.integers(0, going.allowance)) if data.draw(st.booleans()) else going.allowance
        published += count
        going = replace(going, paced_to=going.paced_after(count))
        elapsed_s = (going.now - first).total_seconds()
        assert published <= rate * elapsed_s + max(1, rate) + 1 + 1e-3


@given(rates)
def test_a_job_that_comes_when_it_is_told_reaches_its_rate(rate: float) -> None:
    going, published = job(rate=rate), 0
    for _ in range(60):
        count = going.allowance
        published += count
        wait = going.next_step_after(count)
        going = replace(going, paced_to=going.paced_after(count), now=going.now + wait)
    elapsed_s = (going.now - NOW).total_seconds()
    # What has become due since the last step goes with the next one.
    assert published >= rate * elapsed_s * 0.999 - max(1, rate * STEP_EVERY.total_seconds()) - 1


@given(st.integers(0, 1000), st.sets(st.integers(0, 1000)), st.integers(0, 1000), st.integers(0, 1000))
def test_there_is_room_only_once_the_last_record_is_done(
    next_offset: int, completed: set[int], more: int, last_offset: int
) -> None:
    above = frozenset(offset for offset in completed if offset > next_offset)
    end_offset = max([next_offset, *above]) + more
    lately = job(last_partition=0, last_offset=last_offset, stepped_at=NOW)
    done = last_offset < next_offset or last_offset in above
    progress = Progress(next_offset, above, end_offset)
    assert progress.has_room(lately, 0) == (done and progress.unfinished <= UNFINISHED_MOST)


@given(st.lists(st.tuples(st.sampled_from([ONE, OTHER, "nobody"]), st.integers(0, 2)), max_size=60))
def test_every_record_of_a_subscription_is_in_its_span_and_counted_once(records: list[tuple[str, int]]) -> None:
    batch = [parked(offset, owner, partition) for offset, (owner, partition) in enumerate(records)]
    found = sort_parked(batch)
    counted = sum(span.records for spans in found.spans.values() for span in spans)
    assert counted == len(batch) - found.owners.count(None)
    for one, owner in zip(batch, found.owners, strict=True):
        if owner is not None:
            [span] = [span for span in found.spans[owner] if span.partition == one.source.partition]
            assert span.from_offset <= one.source.offset < span.to_offset


@given(st.floats(1, 2_000), st.floats(0, 0.5))
def test_without_a_rate_a_step_is_soon_what_its_endpoint_takes_in_a_second(takes: float, overhead_s: float) -> None:
    """``takes``: requests a second. Beyond a second's worth the lane would send them into the tiers, out of order."""
    going = job()
    for _ in range(20):
        count = going.allowance
        took_s = count / takes + overhead_s
        now = going.now + timedelta(seconds=took_s)
        going = replace(going, last_records=count, stepped_at=going.now, now=now)
    assert LEAST_RECORDS <= going.allowance <= max(LEAST_RECORDS, takes + 1)
    enough = min(STEP_RECORDS, takes * (1 - overhead_s))
    assert going.allowance >= enough * 0.9 - 1


def test_a_step_is_bounded() -> None:
    assert job(rate=1e9, paced_to=NOW - timedelta(days=1)).allowance == STEP_RECORDS
    assert job(last_records=10**6, stepped_at=NOW).allowance == STEP_RECORDS
