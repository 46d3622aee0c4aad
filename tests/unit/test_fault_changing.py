"""A request that is not as it may be is found: planted, one wrong thing at a time."""

from __future__ import annotations

import math
import time

import pytest

from shared.signature import standard_signature
from tests.faults.changing import Changing, wrongs
from tests.faults.history import History, Keys
from tests.faults.oracle import Arrived
from tests.receiver import Arrival

OLD, NEW = b"old key" * 5, b"new key" * 5
CHANGED_S = 1000.0
BODY = b'{"n": 1}'


def changed() -> Changing:
    """Moved, rotated without an overlap, and once paused for a minute."""
    path, keys, active = History("before", 0.0), History(Keys(OLD), 0.0), History(True, 0.0)
    path.note("after", CHANGED_S, CHANGED_S)
    keys.note(Keys(NEW, 0.0), CHANGED_S, CHANGED_S)
    active.note(False, CHANGED_S + 100, CHANGED_S + 100)
    active.note(True, CHANGED_S + 160, CHANGED_S + 160)
    return Changing("id", 0, path, active, History((), 0.0), keys)


def request(path: str, at_s: float, *keys: bytes, way_s: int = 0) -> tuple[Arrival, Arrived]:
    """One that arrives at ``at_s`` and was signed ``way_s`` before."""
    signed_s = int(at_s) - way_s
    headers = {
        "webhook-id": "one",
        "webhook-timestamp": f"{signed_s}",
        "webhook-signature": standard_signature(keys, "one", signed_s, BODY),
    }
    return Arrival("POST", path, headers, BODY, time.monotonic(), 1), Arrived("one", 1, BODY, 200, at_s)


@pytest.mark.parametrize(
    ("path", "after_s", "keys", "found"),
    [
        ("/after", 2.0, (NEW,), []),
        ("/before", 0.9, (OLD,), []),
        ("/before", -1.0, (OLD,), []),
        ("/before", 2.0, (NEW,), ["at an address that is another's"]),
        ("/after", -1.0, (OLD,), ["at an address that is another's"]),
        ("/after", 2.0, (OLD,), ["signed by others"]),
        ("/after", 2.0, (OLD, NEW), ["signed by others"]),
        ("/after", 2.0, (b"nobody's" * 5,), ["signed by others"]),
        ("/after", 101.0, (NEW,), []),
        ("/after", 102.0, (NEW,), ["delivered although paused"]),
        ("/after", 160.5, (NEW,), []),
    ],
)
def test_a_request_is_compared_with_what_was_asked_for(
    path: str, after_s: float, keys: tuple[bytes, ...], found: list[str]
) -> None:
    assert list(wrongs(changed(), *request(path, CHANGED_S + after_s, *keys))) == found


def test_a_request_may_be_on_its_way_for_a_while_and_is_compared_with_what_was_when_it_was_signed() -> None:
    assert list(wrongs(changed(), *request("/before", CHANGED_S + 3, OLD, way_s=3))) == []
    assert list(wrongs(changed(), *request("/after", CHANGED_S + 3, NEW, way_s=5))) == [
        "at an address that is another's",
        "signed by others",
    ]
    assert list(wrongs(changed(), *request("/after", CHANGED_S + 50, NEW, way_s=31))) == ["signed at another time"]
    assert "signed at another time" in wrongs(changed(), *request("/after", CHANGED_S + 50, NEW, way_s=-1))


@pytest.mark.parametrize(("after_s", "found"), [(1.0, []), (2.0, ["delivered although deleted"]), (-5.0, [])])
def test_a_request_after_the_deletion_is_found(after_s: float, found: list[str]) -> None:
    one = changed()
    assert one.deleted_s == math.inf
    one.deleted_s = CHANGED_S + 50
    assert list(wrongs(one, *request("/after", one.deleted_s + after_s, NEW))) == found
