"""A subscription after changes and rotations, and what is still good when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encryption import Cipher, generate_key
from shared.errors import TooManyKeys
from shared.subscription import ExpiringKey, Previous, Subscription
from shared.subscription_changes import MOST_PREVIOUS_KEYS, changed, rotated
from tests.unit.examples import NOW_MS, subscription

_HOUR_S = 3600
_HOUR_MS = _HOUR_S * 1000


def _twice(secret: bytes | None = None) -> Subscription:
    """Rotated now, and again half an hour later, an hour of overlap each."""
    once = rotated(subscription(secret=b"in-0", signing_keys=(b"out-0",)), b"out-1", secret, NOW_MS, _HOUR_S)
    return rotated(once, b"out-2", None, NOW_MS + _HOUR_MS // 2, _HOUR_S)


def test_both_keys_sign_until_the_old_one_expires() -> None:
    once = rotated(subscription(signing_keys=(b"old",)), b"new", None, NOW_MS, _HOUR_S)
    assert once.signing_keys_at(NOW_MS) == (b"new", b"old")
    assert once.signing_keys_at(NOW_MS + _HOUR_MS - 1) == (b"new", b"old")
    assert once.signing_keys_at(NOW_MS + _HOUR_MS) == (b"new",)


def test_a_second_rotation_leaves_the_first_key_its_time() -> None:
    twice = _twice()
    assert twice.signing_keys_at(NOW_MS + _HOUR_MS - 1) == (b"out-2", b"out-1", b"out-0")
    assert twice.signing_keys_at(NOW_MS + _HOUR_MS) == (b"out-2", b"out-1")
    assert twice.signing_keys_at(NOW_MS + 2 * _HOUR_MS) == (b"out-2",)


def test_no_overlap_ends_all_that_was_good_before() -> None:
    alone = rotated(_twice(b"in-1"), b"out-3", None, NOW_MS + 1, 0)
    assert alone.signing_keys_at(NOW_MS + 1) == (b"out-3",)
    assert alone.secrets_at(NOW_MS + 1) == (b"in-1",)
    assert rotated(alone, b"k", b"in-2", NOW_MS + 1, 0).secrets_at(NOW_MS + 1) == (b"in-2",)


def test_the_incoming_secret_overlaps_only_when_it_is_rotated() -> None:
    once = rotated(subscription(secret=b"in-0"), b"out", b"in-1", NOW_MS, _HOUR_S)
    assert once.secrets_at(NOW_MS + _HOUR_MS - 1) == (b"in-1", b"in-0")
    assert once.secrets_at(NOW_MS + _HOUR_MS) == (b"in-1",)
    kept = rotated(subscription(secret=b"in-0"), b"out", None, NOW_MS, _HOUR_S)
    assert kept.secrets_at(NOW_MS) == (b"in-0",)


def test_a_repeated_rotation_keeps_the_secret_before_and_its_time() -> None:
    once = rotated(subscription(secret=b"in-0"), b"out-1", b"in-1", NOW_MS, _HOUR_S)
    again = rotated(once, b"out-2", b"in-1", NOW_MS + 5, _HOUR_S)
    assert (again.previous_secret, again.previous_secret_until_ms) == (b"in-0", NOW_MS + _HOUR_MS)


def test_a_first_secret_is_asked_for_at_once() -> None:
    once = rotated(subscription(secret=None), b"out", b"in-1", NOW_MS, _HOUR_S)
    assert once.secrets_at(NOW_MS) == (b"in-1",)
    assert once.previous_secret_until_ms is None


def test_rotations_within_an_overlap_are_bounded_and_push_nobody_out() -> None:
    many = subscription(signing_keys=(b"0",))
    for number in range(1, MOST_PREVIOUS_KEYS + 1):
        many = rotated(many, b"%d" % number, None, NOW_MS + number, _HOUR_S)
    with pytest.raises(TooManyKeys):
        rotated(many, b"one more", None, NOW_MS + 100, _HOUR_S)
    assert b"0" in many.signing_keys_at(NOW_MS + 100)
    later_ms = NOW_MS + _HOUR_MS + 1
    assert rotated(many, b"later", None, later_ms, _HOUR_S).signing_keys_at(later_ms)[0] == b"later"
    assert rotated(many, b"leaked", None, NOW_MS + 100, 0).signing_keys_at(NOW_MS + 100) == (b"leaked",)


def test_another_secret_by_a_change_is_the_only_one() -> None:
    once = rotated(subscription(secret=b"in-0"), b"out", b"in-1", NOW_MS, _HOUR_S)
    assert changed(once, {"secret": b"in-2"}).secrets_at(NOW_MS) == (b"in-2",)
    assert changed(once, {"secret": None}).secrets_at(NOW_MS) == ()
    assert changed(once, {"secret": b"in-1"}).secrets_at(NOW_MS) == (b"in-1", b"in-0")
    assert changed(once, {"target_url": "https://x.org/"}).secrets_at(NOW_MS) == (b"in-1", b"in-0")


def test_nothing_of_a_rotation_is_shown() -> None:
    shown = repr(_twice(b"in-1"))
    assert not any(clear in shown for clear in ("in-0", "in-1", "out-0", "out-1", "out-2"))


_expiring = st.builds(ExpiringKey, st.binary(max_size=64), st.integers(0, 2**41))


@given(st.none() | _expiring, st.lists(_expiring, max_size=MOST_PREVIOUS_KEYS), st.integers(0, 2**41))
def test_what_rotations_left_survives_sealing_without_what_has_expired(
    secret: ExpiringKey | None, keys: list[ExpiringKey], now_ms: int
) -> None:
    cipher = Cipher(generate_key())
    alive = [one for one in keys if now_ms < one.until_ms]
    expected = Previous(secret if secret and now_ms < secret.until_ms else None, tuple(alive))
    sealed = Previous(secret, tuple(keys)).sealed(cipher, now_ms)
    assert (sealed is None) == (expected == Previous())
    assert Previous.opened(sealed, cipher) == expected
