"""Pure: signatures of what we send.

Standard Webhooks v1 (HMAC) and v1a (ed25519), see
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
and the ``X-Hub-Signature-256`` form (WebSub, GitHub).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.mac import hmac_sha256

PUBLIC_KEY_PREFIX = "whpk_"
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, no secret


def generate_signing_secret() -> str:
    """A fresh ``whsec_…`` of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def decode_signing_secret(secret: str) -> bytes:
    """The key bytes of a ``whsec_…``, 24 to 64 of them by the standard. Raises ValueError, without the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a signing secret is whsec_ and base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("a signing secret has 24 to 64 bytes")
    return key


def generate_private_key() -> bytes:
    """A fresh ed25519 private key: the 32 bytes that RFC 8032 calls so."""
    return secrets.token_bytes(32)


def public_key_text(private_key: bytes) -> str:
    """The ``whpk_…`` with which receivers verify what ``private_key`` signed."""
    return PUBLIC_KEY_PREFIX + base64.b64encode(_ed25519(private_key).public_key().public_bytes_raw()).decode()


def standard_signature(
    keys: tuple[bytes, ...],
    webhook_id: str,
    timestamp_s: int,
    body: bytes,
    *,
    private_keys: tuple[bytes, ...] = (),
) -> str:
    """The ``webhook-signature`` header: a ``v1,…`` per key, then a ``v1a,…`` per private key, separated by spaces."""
    start = f"{webhook_id}.{timestamp_s}.".encode()
    signatures = ["v1," + _base64(hmac_sha256(key, start, body)) for key in keys]
    signatures += ["v1a," + _base64(_ed25519(private_key).sign(start + body)) for private_key in private_keys]
    return " ".join(signatures)


def _base64(signature: bytes) -> str:
    return binascii.b2a_base64(signature, newline=False).decode()


@lru_cache(maxsize=1024)
def _ed25519(private_key: bytes) -> Ed25519PrivateKey:
    """Kept, since reading a key costs as much as signing with it (33 and 37 us)."""
    return Ed25519PrivateKey.from_private_bytes(private_key)


def hub_signature(secret: bytes, body: bytes) -> str:
    """The ``X-Hub-Signature-256`` header: ``sha256=`` and the hex HMAC of the raw body."""
    return "sha256=" + hmac_sha256(secret, body).hex()
