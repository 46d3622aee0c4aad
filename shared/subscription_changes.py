"""Pure: a subscription after a change or a rotation. What has run out is left behind at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict

from shared.errors import TooManyKeys
from shared.subscription import ExpiringKey, HeaderPairs, SignatureScheme, SigningVersion, Subscription

#: Keys that rotations replaced and that still sign: each is one more signature in every request.
MOST_PREVIOUS_KEYS = 5


class Changes(TypedDict, total=False):
    """What people choose anew; what is left out stays as it is."""

    target_url: str
    event_types: tuple[str, ...]
    description: str | None
    secret: bytes | None
    headers: HeaderPairs
    timeout_seconds: float | None
    retry_delays: tuple[int, ...] | None
    signature_scheme: SignatureScheme
    rate_limit: float | None
    max_in_flight: int | None
    signing_versions: tuple[SigningVersion, ...]


def changed(subscription: Subscription, changes: Changes) -> Subscription:
    """With ``changes``. Another secret is the only one from then on: rotating is what keeps the one before."""
    after = replace(subscription, **changes)
    if after.secret == subscription.secret:
        return after
    return replace(after, previous_secret=None, previous_secret_until_ms=None)


def rotated(
    subscription: Subscription,
    signing_key: bytes,
    secret: bytes | None,
    now_ms: int,
    overlap_s: int,
    private_key: bytes | None = None,
) -> Subscription:
    """``signing_key`` signs, and the keys before it with it until their times; ``private_key`` likewise, for v1a.

    A subscription that never asked for v1a gets no private key by this. A ``secret`` replaces the one of incoming
    events in the same way; a repeat with the same one changes nothing about it. No overlap: whatever was good before
    ends at once. Raises TooManyKeys, so that a caller who repeats an unanswered call cannot push out the key that
    receivers still have.
    """
    if private_key is not None:
        rotated_keys = subscription.private_keys.rotated(private_key, now_ms, overlap_s)
        subscription = replace(subscription, private_keys=rotated_keys)
    if not overlap_s:
        alone = replace(subscription, previous_secret=None, previous_secret_until_ms=None, previous_signing_keys=())
        return replace(alone, signing_keys=(signing_key,), secret=secret or subscription.secret)
    until_ms = now_ms + overlap_s * 1000
    before = [ExpiringKey(key, until_ms) for key in subscription.signing_keys]
    before += [old for old in subscription.previous_signing_keys if now_ms < old.until_ms]
    if len(before) > MOST_PREVIOUS_KEYS:
        raise TooManyKeys
    after = replace(subscription, signing_keys=(signing_key,), previous_signing_keys=tuple(before))
    if secret is None or secret == subscription.secret:
        return after
    good_until_ms = None if subscription.secret is None else until_ms
    return replace(after, secret=secret, previous_secret=subscription.secret, previous_secret_until_ms=good_until_ms)
