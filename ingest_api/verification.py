"""Pure: does an incoming event carry a signature of the scheme its subscription has chosen.

- ``hub`` (WebSub, GitHub): ``X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the raw body>``; earlier services read it
  under two other names, and without any header as ``{"body": …, "signature": <bare hex over the string in body>}``.
- ``standard``: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
- ``stripe``: https://docs.stripe.com/webhooks#verify-manually
- ``shopify``: https://shopify.dev/docs/apps/build/webhooks/subscribe/https#step-2-validate-the-origin-of-your-webhook

Signatures are compared as the text they were sent as, on bytes and in constant time: a second spelling of the same
bytes (base64 with other spare bits) is another signature. Missing, malformed, stale and wrong are one answer, so that
nobody learns which it was. Work is bounded: a header is at most 4 KiB and holds at most 16 signatures.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import orjson

from shared.mac import hmac_sha256
from shared.signature import SECRET_PREFIX
from shared.subscription import SignatureScheme

#: As ASGI gives them: lower-case names, in the order they came.
Headers = Sequence[tuple[bytes, bytes]]

TOLERANCE_S = 300
MOST_SIGNATURES = 16
LONGEST_HEADER = 4096
#: The first of these that was sent counts; the others are what earlier services called it.
HUB_HEADERS = (b"x-hub-signature-256", b"x-hub-signature-25", b"signature")

_LONGEST_ID = 255
_HEX_DIGITS = 64
_TIMESTAMP = re.compile(rb"[0-9]{1,12}")
#: The shortest key that the Standard Webhooks libraries take for base64; what is shorter is a key as it stands.
_LEAST_KEY_BYTES = 24


class Scheme(NamedTuple):
    """What verifies, and what an answer 401 may say of it."""

    verify: Callable[[Sequence[bytes], Headers, bytes, int], bool]
    header: str
    form: str


def verify(scheme: SignatureScheme, secrets: Sequence[bytes], headers: Headers, body: bytes, now_ms: int) -> bool:
    """Whether ``body`` is signed with one of ``secrets`` (two during a rotation), by this scheme, and not stale."""
    return SCHEMES[scheme].verify(secrets, headers, body, now_ms)


def verify_hub(secrets: Sequence[bytes], headers: Headers, body: bytes, _now_ms: int = 0) -> bool:
    """Exactly one header of the first name that is there, or the pair in the body."""
    for name in HUB_HEADERS:
        given = _values(headers, name)
        if given:
            prefix, _, digits = given[0].partition(b"=")
            return len(given) == 1 and prefix == b"sha256" and _is_hex_of(secrets, body, digits)
    return _verify_pair(secrets, body)


def verify_standard(secrets: Sequence[bytes], headers: Headers, body: bytes, now_ms: int) -> bool:
    """``webhook-id``, ``-timestamp`` and ``-signature``, each once; any of several `v1,…` may be the right one."""
    webhook_id, timestamp = _single(headers, b"webhook-id"), _single(headers, b"webhook-timestamp")
    if not 0 < len(webhook_id) <= _LONGEST_ID or not _is_fresh(timestamp, now_ms):
        return False
    given = _single(headers, b"webhook-signature").split(b" ")
    if len(given) > MOST_SIGNATURES:
        return False
    signed = b".".join((webhook_id, timestamp, body))
    expected = [b"v1," + _base64_of(standard_key(secret), signed) for secret in secrets]
    return _any_equal(expected, given)


def verify_stripe(secrets: Sequence[bytes], headers: Headers, body: bytes, now_ms: int) -> bool:
    """``Stripe-Signature: t=<seconds>,v1=<hex>,…``: one ``t``, any of several ``v1``, other versions aside."""
    parts = [part.partition(b"=") for part in _single(headers, b"stripe-signature").split(b",")]
    times = [value for name, _, value in parts if name == b"t"]
    given = [value for name, _, value in parts if name == b"v1"]
    if len(times) != 1 or len(parts) > MOST_SIGNATURES + 1 or not _is_fresh(times[0], now_ms):
        return False
    signed = times[0] + b"." + body
    return _any_equal([_hex_of(secret, signed) for secret in secrets], given)


def verify_shopify(secrets: Sequence[bytes], headers: Headers, body: bytes, _now_ms: int = 0) -> bool:
    """``X-Shopify-Hmac-Sha256``: base64 of the HMAC of the raw body, once. The scheme signs no time."""
    given = _single(headers, b"x-shopify-hmac-sha256")
    return _any_equal([_base64_of(secret, body) for secret in secrets], [given])


SCHEMES: dict[SignatureScheme, Scheme] = {
    "hub": Scheme(verify_hub, "X-Hub-Signature-256", "must be sha256= and the hex HMAC-SHA256 of the raw body"),
    "standard": Scheme(
        verify_standard, "webhook-signature", "must be a Standard Webhooks v1 signature, at most 5 minutes old"
    ),
    "stripe": Scheme(verify_stripe, "Stripe-Signature", "must hold t and the right v1, at most 5 minutes old"),
    "shopify": Scheme(verify_shopify, "X-Shopify-Hmac-Sha256", "must be the base64 HMAC-SHA256 of the raw body"),
}


def standard_key(secret: bytes) -> bytes:
    """The key in a Standard Webhooks secret: base64, with or without ``whsec_``; any other text is itself the key."""
    text = secret.removeprefix(SECRET_PREFIX.encode())
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        return secret
    return key if len(key) >= _LEAST_KEY_BYTES else secret


def _verify_pair(secrets: Sequence[bytes], body: bytes) -> bool:
    """Only these two members: anything beside them would be unsigned."""
    if not body.lstrip().startswith(b"{"):
        return False
    try:
        pair = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if pair.keys() != {"body", "signature"} or not all(isinstance(text, str) for text in pair.values()):
        return False
    return _is_hex_of(secrets, pair["body"].encode(), pair["signature"].encode())


def _is_hex_of(secrets: Iterable[bytes], signed: bytes, digits: bytes) -> bool:
    """All digits small or all capital: one of them alone in the other case is a changed signature."""
    small = digits.lower()
    given = small if len(digits) == _HEX_DIGITS and digits in (small, digits.upper()) else b""
    return _any_equal([_hex_of(secret, signed) for secret in secrets], [given])


def _any_equal(expected: Iterable[bytes], given: Sequence[bytes]) -> bool:
    """Every pair is compared, so that the time does not tell which one was right."""
    found = False
    for right in expected:
        for one in given:
            found |= hmac.compare_digest(right, one)
    return found


def _hex_of(key: bytes, signed: bytes) -> bytes:
    return hmac_sha256(key, signed).hex().encode()


def _base64_of(key: bytes, signed: bytes) -> bytes:
    return base64.b64encode(hmac_sha256(key, signed))


def _is_fresh(timestamp: bytes, now_ms: int) -> bool:
    """Seconds since 1970, at most TOLERANCE_S from now on either side."""
    return _TIMESTAMP.fullmatch(timestamp) is not None and abs(now_ms - int(timestamp) * 1000) <= TOLERANCE_S * 1000


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _single(headers: Headers, name: bytes) -> bytes:
    """The value of a header that was sent once and is not too long; else empty."""
    values = _values(headers, name)
    return values[0] if len(values) == 1 and len(values[0]) <= LONGEST_HEADER else b""
