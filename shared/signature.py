"""Pure: signatures of what we send.

Standard Webhooks v1 (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)
and the ``X-Hub-Signature-256`` form (WebSub, GitHub).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

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


def standard_signature(keys: tuple[bytes, ...], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """The ``webhook-signature`` header: one ``v1,…`` per key, separated by spaces."""
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)


def hub_signature(secret: bytes, body: bytes) -> str:
    """The ``X-Hub-Signature-256`` header: ``sha256=`` and the hex HMAC of the raw body."""
    return "sha256=" + hmac.digest(secret, body, hashlib.sha256).hex()
