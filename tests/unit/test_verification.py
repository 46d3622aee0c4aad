"""Incoming signatures: each provider's published vector, by example and by flipped bits."""

from __future__ import annotations

import base64
import hashlib
import hmac

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from ingest_api.verification import (
    HUB_HEADERS,
    LONGEST_HEADER,
    MOST_SIGNATURES,
    TOLERANCE_S,
    Headers,
    standard_key,
    verify,
)
from shared.signature import hub_signature, standard_signature
from shared.subscription import SignatureScheme

# GitHub's published vector: "Testing the webhook payload validation" in its documentation.
HUB_SECRET = b"It's a Secret to Everybody"
HUB_BODY = b"Hello, World!"
HUB_SIGNATURE = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# The Standard Webhooks project's: in the tests of its libraries (`test_sign_function`), the same in every language.
STANDARD_SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_S = 1614265330
STANDARD_HEADERS = [
    (b"webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek"),
    (b"webhook-timestamp", b"1614265330"),
    (b"webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
]

# Stripe's documentation has none that can be checked; this one is in the tests of its library stripe-dotnet
# (EventUtilityTest.cs and event_test_signature.json).
STRIPE_SECRET = b"webhook_secret"
STRIPE_S = 1533204620
STRIPE_BODY = b"""{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "cus_123",
      "object": "customer",
      "created": 123456789,
      "email": "test@stripe.com",
      "livemode": false,
      "metadata": {}
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "customer.created"
}
"""
STRIPE_HEADER = (
    b"t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,"
    b"v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"
)

# Shopify publishes none; this one is from the documentation of SQLPage's `hmac`, which was written for Shopify.
SHOPIFY_SECRET = b"test-webhook-secret"
SHOPIFY_BODY = b'{"id":1234567890,"email":"customer@example.com","total_price":"123.45"}'
SHOPIFY_SIGNATURE = b"QNyObTlKbMx2qDlPF/ZOZcBqg5OgPg+2oky3zldc0Gw="

VECTORS: dict[SignatureScheme, tuple[bytes, Headers, bytes, int]] = {
    "hub": (HUB_SECRET, [(b"x-hub-signature-256", HUB_SIGNATURE)], HUB_BODY, 0),
    "standard": (STANDARD_SECRET, STANDARD_HEADERS, STANDARD_BODY, STANDARD_S),
    "stripe": (STRIPE_SECRET, [(b"stripe-signature", STRIPE_HEADER)], STRIPE_BODY, STRIPE_S),
    "shopify": (SHOPIFY_SECRET, [(b"x-shopify-hmac-sha256", SHOPIFY_SIGNATURE)], SHOPIFY_BODY, 0),
}
EACH = pytest.mark.parametrize("scheme", list(VECTORS))
NOW_S = 1_700_000_000


def signed(scheme: SignatureScheme, secret: bytes, body: bytes, at_s: int = NOW_S) -> list[tuple[bytes, bytes]]:
    """The headers of a producer of this scheme; the signature is in the last one."""
    match scheme:
        case "hub":
            return [(b"x-hub-signature-256", hub_signature(secret, body).encode())]
        case "standard":
            signature = standard_signature((standard_key(secret),), "msg_1", at_s, body).encode()
            named = [(b"webhook-id", b"msg_1"), (b"webhook-timestamp", b"%d" % at_s)]
            return [*named, (b"webhook-signature", signature)]
        case "stripe":
            digits = hmac.new(secret, b"%d." % at_s + body, hashlib.sha256).hexdigest()
            return [(b"stripe-signature", f"t={at_s},v1={digits}".encode())]
        case "shopify":
            return [(b"x-shopify-hmac-sha256", base64.b64encode(hmac.digest(secret, body, "sha256")))]


def flip(data: bytes, place: int) -> bytes:
    """One bit changed."""
    flipped = bytearray(data)
    flipped[place // 8] ^= 1 << (place % 8)
    return bytes(flipped)


@EACH
def test_the_published_vector_is_accepted(scheme: SignatureScheme) -> None:
    secret, headers, body, at_s = VECTORS[scheme]
    assert verify(scheme, [secret], headers, body, at_s * 1000)


@EACH
@given(st.binary(max_size=200), st.binary(min_size=1, max_size=150), st.data())
def test_any_flipped_bit_of_body_or_signature_is_refused(
    scheme: SignatureScheme, body: bytes, secret: bytes, data: st.DataObject
) -> None:
    headers = signed(scheme, secret, body)
    assert verify(scheme, [secret], headers, body, NOW_S * 1000)
    name, signature = headers[-1]
    place = data.draw(st.integers(0, len(signature) * 8 - 1))
    assert not verify(scheme, [secret], [*headers[:-1], (name, flip(signature, place))], body, NOW_S * 1000)
    assume(body)
    place = data.draw(st.integers(0, len(body) * 8 - 1))
    assert not verify(scheme, [secret], headers, flip(body, place), NOW_S * 1000)


@given(st.integers(0, len(b"msg_1") * 8 - 1), st.integers(0, len(b"1700000000") * 8 - 1))
def test_any_flipped_bit_of_a_standard_id_or_timestamp_is_refused(in_id: int, in_time: int) -> None:
    webhook_id, timestamp, signature = signed("standard", STANDARD_SECRET, b"body")
    for headers in (
        [(webhook_id[0], flip(webhook_id[1], in_id)), timestamp, signature],
        [webhook_id, (timestamp[0], flip(timestamp[1], in_time)), signature],
    ):
        assert not verify("standard", [STANDARD_SECRET], headers, b"body", NOW_S * 1000)


@EACH
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [*HUB_HEADERS, b"webhook-id", b"webhook-timestamp", b"webhook-signature", b"stripe-signature"]
            ),
            st.binary(max_size=80) | st.sampled_from([b"t=1,v1=", b"v1,", b"sha256=", "sha256=ü".encode()]),
        ),
        max_size=6,
    ),
    st.binary(max_size=50),
)
def test_nonsense_is_refused_and_never_an_error(
    scheme: SignatureScheme, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    assert not verify(scheme, [b"secret"], headers, body, NOW_S * 1000)


@EACH
def test_both_secrets_verify_during_a_rotation_and_no_third(scheme: SignatureScheme) -> None:
    for used, good in ((b"new", True), (b"old", True), (b"older", False)):
        headers = signed(scheme, used, b"body")
        assert verify(scheme, [b"new", b"old"], headers, b"body", NOW_S * 1000) is good


@EACH
def test_a_signature_of_another_scheme_is_none(scheme: SignatureScheme) -> None:
    for other in VECTORS:
        good = verify(scheme, [b"secret"], signed(other, b"secret", b"body"), b"body", NOW_S * 1000)
        assert good is (other == scheme)


@EACH
def test_each_header_counts_once(scheme: SignatureScheme) -> None:
    headers = signed(scheme, b"secret", b"body")
    for one in headers:
        assert not verify(scheme, [b"secret"], [*headers, one], b"body", NOW_S * 1000)


@pytest.mark.parametrize("scheme", ["standard", "stripe"])
@pytest.mark.parametrize(("off_s", "good"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_a_timestamp_is_good_for_five_minutes_on_either_side(scheme: SignatureScheme, off_s: int, good: bool) -> None:
    assert TOLERANCE_S == 300
    headers = signed(scheme, b"secret", b"body", NOW_S + off_s)
    assert verify(scheme, [b"secret"], headers, b"body", NOW_S * 1000) is good


@pytest.mark.parametrize("timestamp", [b"", b"-1", b"1e9", b"1700000000.0", b" 1700000000", b"9" * 5000, b"\xb2"])
def test_a_timestamp_is_digits_and_no_many(timestamp: bytes) -> None:
    webhook_id, (name, _), _ = signed("standard", STANDARD_SECRET, b"body")
    signature = hmac.digest(standard_key(STANDARD_SECRET), b"msg_1." + timestamp + b".body", "sha256")
    headers = [webhook_id, (name, timestamp), (b"webhook-signature", b"v1," + base64.b64encode(signature))]
    assert not verify("standard", [STANDARD_SECRET], headers, b"body", NOW_S * 1000)


# ---- hub ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"x-hub-signature-256", b"x-hub-signature-25", b"signature"])
def test_the_older_names_of_the_hub_header_are_read(name: bytes) -> None:
    assert verify("hub", [HUB_SECRET], [(name, HUB_SIGNATURE)], HUB_BODY, 0)


def test_the_first_name_that_is_there_counts_alone() -> None:
    wrong = b"sha256=" + b"0" * 64
    assert not verify(
        "hub", [HUB_SECRET], [(b"signature", HUB_SIGNATURE), (b"x-hub-signature-256", wrong)], HUB_BODY, 0
    )
    assert verify("hub", [HUB_SECRET], [(b"signature", wrong), (b"x-hub-signature-256", HUB_SIGNATURE)], HUB_BODY, 0)


def test_hex_in_capitals_is_the_same_signature_and_mixed_is_not() -> None:
    capital = b"sha256=" + HUB_SIGNATURE[7:].upper()
    mixed = HUB_SIGNATURE[:-10] + HUB_SIGNATURE[-10:].upper()
    assert verify("hub", [HUB_SECRET], [(b"signature", capital)], HUB_BODY, 0)
    assert not verify("hub", [HUB_SECRET], [(b"signature", mixed)], HUB_BODY, 0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        HUB_SIGNATURE[7:],
        b"sha1=" + HUB_SIGNATURE[7:],
        HUB_SIGNATURE + b"0",
        HUB_SIGNATURE[:-1],
        b"sha256=" + b"z" * 64,
        "sha256=ü".encode(),
        b"\xff\xfe",
        b"sha256=" + b"0" * 64,
        HUB_SIGNATURE + b"\n",
    ],
)
def test_malformed_non_ascii_and_wrong_are_refused(value: bytes) -> None:
    assert not verify("hub", [HUB_SECRET], [(b"x-hub-signature-256", value)], HUB_BODY, 0)


def pair(text: str, secret: bytes = HUB_SECRET, **more: str) -> bytes:
    digits = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    return orjson.dumps({"body": text, "signature": digits, **more})


def test_without_a_header_the_pair_in_the_body_is_the_signature() -> None:
    body = pair('{"order": "ü"}')
    assert verify("hub", [b"new", HUB_SECRET], [], body, 0)
    assert not verify("hub", [HUB_SECRET], [(b"signature", b"")], body, 0)
    assert not verify("hub", [b"other"], [], body, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"body": "x"}',
        b'{"body": 1, "signature": 2}',
        b'{"body": "x", "signature": null}',
        b'{"body": "\\ud800", "signature": "00"}',
        pair("Hello, World!", event_type="not.signed"),
        pair("Hello, World!").replace(b'"signature":"', b'"signature":"sha256='),
    ],
)
def test_a_body_that_is_no_pair_signs_nothing(body: bytes) -> None:
    assert not verify("hub", [HUB_SECRET], [], body, 0)


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=60), st.data())
def test_any_flipped_bit_of_a_pair_is_refused(text: str, data: st.DataObject) -> None:
    body = pair(text)
    assert verify("hub", [HUB_SECRET], [], body, 0)
    assert not verify("hub", [HUB_SECRET], [], flip(body, data.draw(st.integers(0, len(body) * 8 - 1))), 0)


# ---- several signatures, and how many -------------------------------------------------------------------------------


def test_any_of_several_standard_signatures_may_be_right_and_only_v1_counts() -> None:
    *named, (name, right) = signed("standard", STANDARD_SECRET, b"body")
    wrong = b"v1," + base64.b64encode(bytes(32))

    def good(*signatures: bytes) -> bool:
        return verify("standard", [STANDARD_SECRET], [*named, (name, b" ".join(signatures))], b"body", NOW_S * 1000)

    assert good(wrong, right)
    assert good(b"v1a,whatever", right, wrong)
    assert not good(wrong, wrong)
    assert not good(b"v2" + right[2:])
    assert good(*[wrong] * (MOST_SIGNATURES - 1), right)
    assert not good(*[wrong] * MOST_SIGNATURES, right)


def test_any_of_several_stripe_signatures_may_be_right_and_only_v1_counts() -> None:
    [(name, right)] = signed("stripe", b"secret", b"body")
    time, _, digits = right.partition(b",v1=")

    def good(*parts: bytes) -> bool:
        return verify("stripe", [b"secret"], [(name, b",".join(parts))], b"body", NOW_S * 1000)

    assert good(time, b"v1=" + b"0" * 64, b"v1=" + digits)
    assert not good(time, b"v0=" + digits)
    assert not good(b"v1=" + digits)
    assert not good(time, time, b"v1=" + digits)
    assert not good(time, *[b"v1=" + b"0" * 64] * MOST_SIGNATURES, b"v1=" + digits)


@EACH
def test_a_long_header_is_refused_unread(scheme: SignatureScheme) -> None:
    *rest, (name, right) = signed(scheme, b"secret", b"body")
    filler = b",v0=" + b"0" * LONGEST_HEADER if scheme == "stripe" else b" " + b"0" * LONGEST_HEADER
    assert not verify(scheme, [b"secret"], [*rest, (name, right + filler)], b"body", NOW_S * 1000)


# ---- Standard Webhooks' own library ---------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [STANDARD_SECRET, STANDARD_SECRET.removeprefix(b"whsec_")])
def test_what_the_standard_library_signs_is_accepted(secret: bytes) -> None:
    from datetime import UTC, datetime

    signature = Webhook(secret.decode()).sign("msg_1", datetime.fromtimestamp(NOW_S, UTC), "body")
    *named, (name, _) = signed("standard", secret, b"body")
    assert verify("standard", [secret], [*named, (name, signature.encode())], b"body", NOW_S * 1000)


@pytest.mark.parametrize("secret", [b"correct horse battery staple", b"whsec_", b"whsec_c2hvcnQ=", b"short"])
def test_a_secret_that_is_no_base64_key_is_a_key_as_it_stands(secret: bytes) -> None:
    assert standard_key(secret) == secret
