"""How many attempts a fault may repeat."""

from __future__ import annotations

from tests.faults.bounds import Forwarded, Traffic, scheduler_bound, stream_bound
from tests.faults.oracle import Arrived, Key, Logged

KILLED_S = 100.0


def arrived(name: str, at_s: float) -> Arrived:
    return Arrived(name, 1, b"", 200, at_s)


def logged(name: str, at_s: float) -> Logged:
    return Logged("attempt", Key(name, 1, 1), "succeeded", None, at_s)


def test_what_was_in_flight_and_what_was_finished_since_the_last_commit_may_come_again() -> None:
    traffic = Traffic(
        arrived=[
            *(arrived(f"old-{n}", 90.0) for n in range(50)),
            *(arrived(f"fresh-{n}", 99.5) for n in range(3)),
            *(arrived(f"in-flight-{n}", 99.9) for n in range(2)),
            arrived("later", 103.0),
        ],
        logged=[
            *(logged(f"old-{n}", 90.1) for n in range(50)),
            *(logged(f"fresh-{n}", 99.8) for n in range(3)),
            *(logged(f"in-flight-{n}", 103.0) for n in range(2)),
            logged("later", 103.1),
        ],
        deliveries=[],
        stream_commits_s=[95.0, 99.6, 99.9, 104.0],
        scheduler_commits_s=[],
    )
    assert stream_bound(traffic, KILLED_S) == 2 + 3


def test_a_late_copy_of_an_earlier_crash_may_come_again_and_one_that_was_put_off_is_no_copy() -> None:
    copied, put_off, old = Key("copied", 1, 2), Key("put-off", 1, 2), Key("old", 1, 2)
    traffic = Traffic(
        arrived=[],
        logged=[],
        deliveries=[
            Forwarded(copied, 0, 95.0),
            Forwarded(copied, 0, 96.0),
            Forwarded(put_off, 0, 95.0),
            Forwarded(put_off, 1, 96.0),
            Forwarded(old, 0, 80.0),
            Forwarded(old, 0, 81.0),
        ],
        stream_commits_s=[99.0, 99.5],
        scheduler_commits_s=[],
    )
    assert stream_bound(traffic, KILLED_S) == 1


def test_what_the_scheduler_has_forwarded_since_its_last_commit_may_come_again() -> None:
    traffic = Traffic(
        arrived=[],
        logged=[],
        deliveries=[
            Forwarded(Key("committed", 1, 2), 0, 90.0),
            Forwarded(Key("first attempt", 1, 1), 0, 99.5),
            Forwarded(Key("retry", 1, 2), 0, 99.5),
            Forwarded(Key("waited", 1, 1), 1, 99.5),
            Forwarded(Key("later", 1, 2), 0, 102.0),
        ],
        stream_commits_s=[],
        scheduler_commits_s=[95.0, 99.0, 99.5],
    )
    assert scheduler_bound(traffic, KILLED_S) == 2
