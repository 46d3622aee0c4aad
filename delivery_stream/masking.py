"""Pure: what a receiver answered, without the secrets that it repeats.

Receivers echo: a debug page prints the headers it got, a validator the signature it expected. Whatever is kept of an
answer is seen by people who must not know them. Masked are the values of the subscription's own headers (and their
longer parts: the token of a `Bearer …`), its secret, its signing keys and the signatures of this attempt; as they are,
in hex and base64, and as JSON, URLs and HTML escape them. A receiver that means to tell its own secrets always can.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from delivery_stream.decision import Answered, NoAnswer, Outcome, Refused
from delivery_stream.request import Request
from shared.signature import SECRET_PREFIX
from shared.subscription import HeaderPairs
from shared.subscriptions import Subscription

MASK = b"***"
#: What is shorter is masked only where it stands alone: `1` is in every number.
_WORD_BYTES = 8
#: No signature is shorter, however it is written.
_SIGNATURE_BYTES = 32
_NOT_ALONE = re.compile(rb"[0-9A-Za-z]")
_PARTS = re.compile(r"[\s;,=:]+")
#: Of an answer, what is looked at: people see 500 characters of it, and looking costs CPU that the receiver chooses.
CAPTURED_BYTES = 1024
#: What JSON, URLs and HTML write for a character, each with what it says.
_ESCAPES = (
    re.compile(rb"\\(?:u00([0-9a-fA-F]{2})|(.))", re.DOTALL),
    re.compile(rb"%([0-9a-fA-F]{2})"),
    re.compile(rb"&(?:#[xX]0{0,4}([0-9a-fA-F]{2})|#0{0,4}([0-9]{2,3})|(amp|lt|gt|quot|apos));"),
)
#: The same where the end may have cut one, of which the first alternative is: it says nothing.
_CUT_ESCAPES = tuple(
    re.compile(cut + rb"\Z|" + whole.pattern, whole.flags)
    for cut, whole in zip(
        (
            rb"\\(?:u(?:0(?:0[0-9a-fA-F]?)?)?)?",
            rb"%[0-9a-fA-F]?",
            rb"&(?:[a-z]{0,4}|#(?:[xX]0{0,4}[0-9a-fA-F]{0,2}|0{0,4}[0-9]{0,3}))",
        ),
        _ESCAPES,
        strict=True,
    )
)
_CHARACTERS = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"} | dict.fromkeys(
    (b"n", b"r", b"t", b"b", b"f"), b" "
)
#: An escape within an escape: JSON in HTML.
_DEEPEST = 2

_Kept = tuple[HeaderPairs, tuple[bytes | None, ...], tuple[bytes, ...]]

#: A reading of a text: its bytes, and where each of them begins in the text; one more for its end.
Reading = tuple[bytes, Sequence[int]]


def without_secrets(outcome: Outcome, subscription: Subscription, request: Request) -> Outcome:
    """The same outcome; what the receiver said is cut at 1 KiB, and secrets in it are `***`."""
    match outcome:
        case Answered(body=body) if body:
            if len(body) < _shortest(*_kept(subscription)):
                return outcome
            kept = masked(body[:CAPTURED_BYTES], _secrets(subscription, request, len(body)))
            return outcome if kept == body else replace(outcome, body=kept)
        case NoAnswer(details=details) | Refused(details=details) if details:
            clear = masked(details.encode(), _secrets(subscription, request, len(details)))
            return replace(outcome, details=clear.decode(errors="replace"))
    return outcome


def masked(body: bytes, secrets: Iterable[bytes]) -> bytes:
    """``body`` with `***` for each of ``secrets`` however it is escaped, and for one that the end has cut."""
    cut = len(body) >= CAPTURED_BYTES
    wanted = [secret for secret in secrets if cut or len(secret) <= len(body)]
    found: list[tuple[int, int]] = []
    for text, starts in _readings(body, _CUT_ESCAPES if cut else _ESCAPES):
        for secret in wanted:
            found += [(starts[at], starts[at + len(secret)]) for at in _places(secret, text)]
            if cut and (at := _cut(secret, text)) is not None:
                found.append((starts[at], len(body)))
    return _replaced(body, found)


def _secrets(subscription: Subscription, request: Request, body_bytes: int) -> Iterator[bytes]:
    yield from _lasting(*_kept(subscription))
    if body_bytes >= _SIGNATURE_BYTES:
        for signature in request.signatures:
            yield from _coded(_decoded(signature))


def _kept(subscription: Subscription) -> _Kept:
    """What of a subscription is secret."""
    keys = subscription.signing_keys
    if subscription.previous_signing_keys:
        keys += tuple(old.key for old in subscription.previous_signing_keys)
    return subscription.headers, (subscription.secret, subscription.previous_secret), keys


@lru_cache(maxsize=1024)
def _shortest(headers: HeaderPairs, secrets: tuple[bytes | None, ...], keys: tuple[bytes, ...]) -> int:
    """No secret is in an answer of fewer bytes. Most answers are "ok"."""
    return min(_SIGNATURE_BYTES, *map(len, _lasting(headers, secrets, keys)))


@lru_cache(maxsize=1024)
def _lasting(headers: HeaderPairs, secrets: tuple[bytes | None, ...], keys: tuple[bytes, ...]) -> frozenset[bytes]:
    """Those that do not change with the attempt."""
    texts = [value for _, value in headers]
    texts += [password for value in texts for password in _basic(value)]
    texts += [part for value in texts for part in _PARTS.split(value) if len(part) >= _WORD_BYTES]
    found = {text.encode() for text in texts} | {secret for secret in secrets if secret}
    found |= {form for secret in list(found) if len(secret) >= _WORD_BYTES for form in _coded(secret)}
    for key in keys:
        found |= {SECRET_PREFIX.encode() + base64.b64encode(key), *_coded(key)}
    return frozenset(found)


def _basic(value: str) -> Iterator[str]:
    """User and password of HTTP's Basic scheme (RFC 7617), together, and the password."""
    scheme, _, coded = value.partition(" ")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            pair = base64.b64decode(coded, validate=True).decode()
            yield from (text for text in (pair, pair.partition(":")[2]) if text)


def _coded(secret: bytes) -> set[bytes]:
    """As hex and base64, and as it is."""
    coded = {base64.b64encode(secret), base64.urlsafe_b64encode(secret)}
    coded |= {one.rstrip(b"=") for one in coded}
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), *coded}


def _decoded(signature: str) -> bytes:
    """The bytes of a signature in hex or base64."""
    try:
        return bytes.fromhex(signature)
    except ValueError:
        return binascii.a2b_base64(signature)


def _readings(body: bytes, escapes: Iterable[re.Pattern[bytes]]) -> Iterator[Reading]:
    """As it stands, with its escapes undone, and without NULs, which is what UTF-16 has between our characters."""
    plain: Reading = body, range(len(body) + 1)
    yield plain
    if b"\0" in body:
        yield body.replace(b"\0", b""), [*(at for at, byte in enumerate(body) if byte), len(body)]
    readings = [plain]
    for _ in range(_DEEPEST):
        readings = [_unescaped(one, escape) for one in readings for escape in escapes if escape.search(one[0])]
        yield from readings


def _unescaped(reading: Reading, escapes: re.Pattern[bytes]) -> Reading:
    text, starts = reading
    parts: list[bytes] = []
    where: list[int] = []
    end = 0
    for escape in escapes.finditer(text):
        character = _character(escape)
        parts += [text[end : escape.start()], character]
        where += starts[end : escape.start() + len(character)]
        end = escape.end()
    return b"".join([*parts, text[end:]]), [*where, *starts[end:]]


def _character(escape: re.Match[bytes]) -> bytes:
    """The one byte that it stands for; none when it is cut."""
    said: bytes | None = next((group for group in escape.groups() if group is not None), None)
    if said is None:
        return b""
    if escape.group(1) is not None:
        return bytes([int(said, 16)])
    if said.isdigit() and escape.group(0).startswith(b"&"):
        return bytes([min(int(said), 255)])
    return _CHARACTERS.get(said, said)


def _places(secret: bytes, text: bytes) -> Iterator[int]:
    at = text.find(secret)
    while at >= 0:
        if len(secret) >= _WORD_BYTES or _stands_alone(text, at, at + len(secret)):
            yield at
        at = text.find(secret, at + 1)


def _stands_alone(text: bytes, start: int, end: int) -> bool:
    return not (_NOT_ALONE.match(text[max(start - 1, 0) : start]) or _NOT_ALONE.match(text[end : end + 1]))


def _cut(secret: bytes, text: bytes) -> int | None:
    """Where a secret begins whose rest is not in ``text`` any more."""
    at = text.find(secret[:_WORD_BYTES], max(len(text) - len(secret) + 1, 0)) if len(secret) > _WORD_BYTES else -1
    while at >= 0:
        if secret.startswith(text[at:]):
            return at
        at = text.find(secret[:_WORD_BYTES], at + 1)
    return None


def _replaced(body: bytes, found: list[tuple[int, int]]) -> bytes:
    """Each of the places, which may overlap, by one mask."""
    parts: list[bytes] = []
    end = 0
    for start, stop in sorted(found):
        if start >= end:
            parts += [body[end:start], MASK]
        end = max(end, stop)
    return b"".join([*parts, body[end:]]) if found else body
