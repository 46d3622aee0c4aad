"""API keys: what one is, and how it is stored.

Stored is SHA-256 of the key, without salt and without stretching. Both exist for passwords, which people choose from
few; a key is 256 random bits, so no list of likely ones can be tried against a stolen table, and no two keys are
alike. A fast hash also lets every request be checked in memory. The key itself is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Role = Literal["publish", "read", "manage", "admin"]

_RANDOM_BYTES = 32
_KEY = re.compile(rb"hk_[A-Za-z0-9_-]{43}")
#: `hk_` and 30 of the 256 bits: enough to tell keys apart, nothing to guess with.
_SHOWN_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: without itself and its hash. ``tenant`` None: all tenants."""

    id: str
    name: str
    prefix: str
    role: Role
    tenant: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key, this once with itself."""

    api_key: ApiKey
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys that work, by their hash, as of ``version``."""

    version: int
    by_hash: Mapping[bytes, ApiKey] = field(repr=False)


def generate_key() -> str:
    """``hk_`` and 43 characters of base64url."""
    return f"hk_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def is_key(text: bytes) -> bool:
    """Could this have come from `generate_key`? What could not needs no look-up."""
    return _KEY.fullmatch(text) is not None


def shown(key: str) -> str:
    """The part by which people know a key."""
    return key[:_SHOWN_CHARACTERS]


def key_hash(key: bytes) -> bytes:
    """The 32 bytes that are stored and compared."""
    return hashlib.sha256(key).digest()
