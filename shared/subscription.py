"""What a subscription is: in clear, sealed as it stands in the stores, and what a look-up can answer.

Secrets and headers are in clear only inside Subscription objects, which never show them.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import orjson

from shared.encryption import Cipher

Status = Literal["active", "paused", "disabled"]
#: How incoming events are signed: whose header, over which bytes.
SignatureScheme = Literal["hub", "standard", "stripe", "shopify"]
#: How outgoing requests are signed (Standard Webhooks): v1 is HMAC with a shared secret, v1a is ed25519.
SigningVersion = Literal["v1", "v1a"]
HeaderPairs = tuple[tuple[str, str], ...]

_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class ExpiringKey:
    """A key that a rotation replaced: it signs until ``until_ms`` (milliseconds since 1970)."""

    key: bytes = field(repr=False)
    until_ms: int


@dataclass(frozen=True, slots=True)
class PrivateKeys:
    """The ed25519 keys of v1a; one sealed JSON array in the stores, which processes that know of none leave alone."""

    current: bytes | None = field(default=None, repr=False)
    previous: tuple[ExpiringKey, ...] = field(default=(), repr=False)

    def at(self, now_ms: int) -> tuple[bytes, ...]:
        """All that sign, the newest first."""
        current = () if self.current is None else (self.current,)
        return current + tuple(old.key for old in self.previous if now_ms < old.until_ms)

    def rotated(self, key: bytes, now_ms: int, overlap_s: int) -> PrivateKeys:
        """``key`` instead of the one before, which is good for ``overlap_s`` more. None before: none after."""
        if self.current is None:
            return self
        if not overlap_s:
            return PrivateKeys(key)
        alive = tuple(old for old in self.previous if now_ms < old.until_ms)
        return PrivateKeys(key, (ExpiringKey(self.current, now_ms + overlap_s * 1000), *alive))

    @classmethod
    def opened(cls, sealed: str | None, cipher: Cipher) -> PrivateKeys:
        """Raises ConfigurationError when the key does not fit."""
        if sealed is None:
            return cls()
        current, previous = orjson.loads(cipher.open(sealed))
        return cls(base64.b64decode(current), tuple(_expiring(one) for one in previous))

    def sealed(self, cipher: Cipher, now_ms: int) -> str | None:
        """Without what has expired; None when there are none."""
        if self.current is None:
            return None
        previous = [_pair(old) for old in self.previous if now_ms < old.until_ms]
        return cipher.seal(orjson.dumps([base64.b64encode(self.current).decode(), previous]))


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who wants which events at which URL. No event types: all of them."""

    id: str
    tenant: str
    target_url: str
    status: Status
    event_types: tuple[str, ...]
    description: str | None
    #: Verifies incoming events; None: they come unsigned.
    secret: bytes | None = field(repr=False)
    #: Keys of outgoing v1 signatures, the newest first.
    signing_keys: tuple[bytes, ...] = field(repr=False)
    #: Added to every request; they may hold credentials.
    headers: HeaderPairs = field(repr=False)
    timeout_seconds: float | None
    retry_delays: tuple[int, ...] | None
    created_at: datetime
    updated_at: datetime
    version: int
    signature_scheme: SignatureScheme = "hub"
    #: Deliveries a second, and attempts under way at once; None: no limit of its own.
    rate_limit: float | None = None
    max_in_flight: int | None = None
    #: What rotations replaced and what is still good until its time; ask `secrets_at` and `signing_keys_at`.
    previous_secret: bytes | None = field(default=None, repr=False)
    previous_secret_until_ms: int | None = None
    previous_signing_keys: tuple[ExpiringKey, ...] = field(default=(), repr=False)
    signing_versions: tuple[SigningVersion, ...] = ("v1",)
    #: Of v1a. There are none until it is asked for; they stay when it no longer is, so that it can be asked for again.
    private_keys: PrivateKeys = field(default=PrivateKeys(), repr=False)

    def secrets_at(self, now_ms: int) -> tuple[bytes, ...]:
        """Each of these verifies an incoming event, the newest first; empty: events come unsigned."""
        if self.secret is None:
            return ()
        if self.previous_secret is None or now_ms >= (self.previous_secret_until_ms or 0):
            return (self.secret,)
        return self.secret, self.previous_secret

    def signing_keys_at(self, now_ms: int) -> tuple[bytes, ...]:
        """All of these make v1 signatures, the newest first; empty: v1 is not asked for."""
        if "v1" not in self.signing_versions:
            return ()
        if not self.previous_signing_keys:
            return self.signing_keys
        return self.signing_keys + tuple(old.key for old in self.previous_signing_keys if now_ms < old.until_ms)

    def private_keys_at(self, now_ms: int) -> tuple[bytes, ...]:
        """All of these make v1a signatures, the newest first; empty: v1a is not asked for."""
        return self.private_keys.at(now_ms) if "v1a" in self.signing_versions else ()


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """What somebody who creates a subscription chooses; it was validated before."""

    target_url: str
    tenant: str = "default"
    event_types: tuple[str, ...] = ()
    description: str | None = None
    secret: bytes | None = field(default=None, repr=False)
    headers: HeaderPairs = field(default=(), repr=False)
    timeout_seconds: float | None = None
    retry_delays: tuple[int, ...] | None = None
    signature_scheme: SignatureScheme = "hub"
    rate_limit: float | None = None
    max_in_flight: int | None = None
    signing_versions: tuple[SigningVersion, ...] = ("v1",)


@dataclass(frozen=True, slots=True)
class Created:
    """A subscription and its ``whsec_…``, which is shown this once."""

    subscription: Subscription
    signing_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which subscriptions a list shows; None: whatever it is."""

    status: Status | None = None
    tenant: str | None = None
    #: Those that get events of this type, or whose filter is written just so.
    event_type: str | None = None
    #: How the target URL begins.
    target_url: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """There is one."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Absent:
    """There is none, or no longer."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nobody can tell now: wait, and never treat it as absent."""


@dataclass(frozen=True, slots=True)
class Previous:
    """What rotations replaced and what is still good for a while; one sealed JSON object in the stores."""

    secret: ExpiringKey | None = None
    signing_keys: tuple[ExpiringKey, ...] = ()

    @classmethod
    def opened(cls, sealed: str | None, cipher: Cipher) -> Previous:
        """Raises ConfigurationError when the key does not fit."""
        if sealed is None:
            return cls()
        body = orjson.loads(cipher.open(sealed))
        secret = body["secret"]
        return cls(_expiring(secret) if secret else None, tuple(_expiring(one) for one in body["signing_keys"]))

    def sealed(self, cipher: Cipher, now_ms: int) -> str | None:
        """Without what has expired; None when nothing is left."""
        keys = [_pair(one) for one in self.signing_keys if now_ms < one.until_ms]
        secret = _pair(self.secret) if self.secret and now_ms < self.secret.until_ms else None
        if not keys and not secret:
            return None
        return cipher.seal(orjson.dumps({"secret": secret, "signing_keys": keys}))


def _expiring(pair: list[Any]) -> ExpiringKey:
    return ExpiringKey(base64.b64decode(pair[0]), int(pair[1]))


def _pair(one: ExpiringKey) -> list[object]:
    return [base64.b64encode(one.key).decode(), one.until_ms]


@dataclass(frozen=True, slots=True)
class SealedSubscription:
    """A subscription as it stands in Postgres and Redis: secrets and headers encrypted."""

    id: str
    tenant: str
    target_url: str
    status: Status
    event_types: tuple[str, ...]
    description: str | None
    sealed_secret: str | None = field(repr=False)
    sealed_signing_keys: str = field(repr=False)
    sealed_headers: str | None = field(repr=False)
    timeout_seconds: float | None
    retry_delays: tuple[int, ...] | None
    created_at: datetime
    updated_at: datetime
    version: int
    signature_scheme: SignatureScheme
    rate_limit: float | None
    max_in_flight: int | None
    #: What rotations replaced, with the times until when it is good: `Previous`.
    sealed_previous: str | None = field(repr=False)
    signing_versions: tuple[SigningVersion, ...]
    #: `PrivateKeys`.
    sealed_private_keys: str | None = field(repr=False)

    def opened(self, cipher: Cipher) -> Subscription:
        """With its secrets in clear. Raises ConfigurationError when the key does not fit."""
        keys = orjson.loads(cipher.open(self.sealed_signing_keys))
        headers = orjson.loads(cipher.open(self.sealed_headers)) if self.sealed_headers else []
        previous = Previous.opened(self.sealed_previous, cipher)
        return Subscription(
            id=self.id,
            tenant=self.tenant,
            target_url=self.target_url,
            status=self.status,
            event_types=self.event_types,
            description=self.description,
            secret=cipher.open(self.sealed_secret) if self.sealed_secret else None,
            signing_keys=tuple(base64.b64decode(key) for key in keys),
            headers=tuple((name, value) for name, value in headers),
            timeout_seconds=self.timeout_seconds,
            retry_delays=self.retry_delays,
            created_at=self.created_at,
            updated_at=self.updated_at,
            version=self.version,
            signature_scheme=self.signature_scheme,
            rate_limit=self.rate_limit,
            max_in_flight=self.max_in_flight,
            previous_secret=previous.secret.key if previous.secret else None,
            previous_secret_until_ms=previous.secret.until_ms if previous.secret else None,
            previous_signing_keys=previous.signing_keys,
            signing_versions=self.signing_versions,
            private_keys=PrivateKeys.opened(self.sealed_private_keys, cipher),
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the change feed."""

    id: str
    version: int
    #: Postgres' clock, taken under the lock of all writers: it grows with the version.
    changed_ms: int
    #: As it is now; None: it was deleted.
    sealed: SealedSubscription | None = None


@dataclass(frozen=True, slots=True)
class FeedStart:
    """Where a change feed begins: all that follows has a higher version."""

    version: int
    #: Everything that changed since ``since_ms`` (Postgres' clock), by version.
    changes: tuple[Change, ...]
    since_ms: int


def canonical_id(text_id: str) -> str | None:
    """A UUID in its usual form, in lower case; None for anything else."""
    return text_id.lower() if _CANONICAL_UUID.fullmatch(text_id) else None
