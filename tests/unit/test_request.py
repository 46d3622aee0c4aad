"""The POST a receiver gets (CONTRACT: what a receiver gets)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from delivery_stream.decision import Refused
from delivery_stream.request import Request, build_request
from shared.records import Delivery
from shared.signature import generate_private_key, generate_signing_secret, public_key_text
from shared.subscription import PrivateKeys
from shared.subscriptions import Subscription
from tests.unit.examples import NOW_MS, delivery, subscription


def built(delivery: Delivery, subscription: Subscription, now_ms: int = NOW_MS) -> Request:
    request = build_request(delivery, subscription, now_ms)
    assert isinstance(request, Request), request
    return request


def headers_of(**changes: object) -> dict[str, str]:
    request = built(delivery(**changes), subscription(secret=b"s"))
    return {name.lower(): value for name, value in request.headers}


def test_every_header_of_the_contract_is_there() -> None:
    headers = headers_of(attempt=2, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert set(headers) == {
        "content-type",
        "user-agent",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-webhook-id",
        "x-webhook-attempt",
        "x-hub-signature-256",
        "x-event-type",
        "x-hooklog-hops",
        "traceparent",
    }
    assert headers["webhook-id"] == headers["x-webhook-id"] == delivery().webhook_id
    assert headers["webhook-timestamp"] == str(NOW_MS // 1000)
    assert headers["x-webhook-attempt"] == "2"
    # echo -n '{"a":1}' | openssl dgst -sha256 -hmac s
    assert headers["x-hub-signature-256"] == "sha256=37beaf650f70b40ec9706929c2e9d835cbd63729988f48781e6383a147215f07"


def test_both_keys_sign_during_a_rotation() -> None:
    secrets = [generate_signing_secret(), generate_signing_secret()]
    keys = tuple(base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets)
    request = built(delivery(), subscription(signing_keys=keys))
    signatures = dict(request.headers)["webhook-signature"].split(" ")
    assert len(signatures) == 2
    for secret, signature in zip(secrets, signatures, strict=True):
        at = datetime.fromtimestamp(NOW_MS // 1000, tz=UTC)
        assert Webhook(secret).sign(delivery().webhook_id, at, '{"a":1}') == signature


def test_each_attempt_is_signed_with_its_own_time_and_the_same_id() -> None:
    secret = generate_signing_secret()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    ids, times = set(), []
    for attempt, now_ms in ((1, NOW_MS), (2, NOW_MS + 40_000)):
        headers = dict(built(delivery(attempt=attempt), subscription(signing_keys=(key,)), now_ms).headers)
        at = datetime.fromtimestamp(now_ms // 1000, tz=UTC)
        assert Webhook(secret).sign(delivery().webhook_id, at, '{"a":1}') == headers["webhook-signature"]
        ids.add(headers["webhook-id"])
        times.append(int(headers["webhook-timestamp"]))
    assert ids == {delivery().webhook_id}
    assert times[1] - times[0] == 40


@pytest.mark.parametrize(
    ("versions", "expected"),
    [(("v1",), ["v1", "v1"]), (("v1a",), ["v1a", "v1a"]), (("v1", "v1a"), ["v1", "v1", "v1a", "v1a"])],
)
def test_every_version_asked_for_signs_with_all_keys_of_a_rotation(
    versions: tuple[str, ...], expected: list[str]
) -> None:
    private_keys = [generate_private_key(), generate_private_key()]
    rotating = PrivateKeys(private_keys[0]).rotated(private_keys[1], NOW_MS, 3600)
    one = subscription(signing_keys=(b"n" * 24, b"o" * 24), signing_versions=versions, private_keys=rotating)
    headers = dict(built(delivery(), one).headers)
    signatures = headers["webhook-signature"].split(" ")
    assert [signature.partition(",")[0] for signature in signatures] == expected
    signed = f"{delivery().webhook_id}.{NOW_MS // 1000}.".encode() + delivery().payload
    asymmetric = [base64.b64decode(one.partition(",")[2]) for one in signatures if one.startswith("v1a,")]
    for signature, private_key in zip(asymmetric, reversed(private_keys), strict=bool(asymmetric)):
        public = base64.b64decode(public_key_text(private_key).removeprefix("whpk_"))
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    assert (
        len(dict(built(delivery(), one, NOW_MS + 3_600_000).headers)["webhook-signature"].split(" "))
        == {
            ("v1",): 2,
            ("v1a",): 1,
            ("v1", "v1a"): 3,
        }[versions]
    )


def test_without_a_secret_there_is_no_hub_signature_and_own_headers_come_last() -> None:
    request = built(delivery(), subscription(headers=(("Authorization", "Bearer x"),)))
    assert request.headers[-1] == ("Authorization", "Bearer x")
    assert "X-Hub-Signature-256" not in dict(request.headers)


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\x00", "é", "x" * 300, ""])
def test_what_a_foreign_record_brought_does_not_become_a_header_unless_it_is_harmless(text: str) -> None:
    headers = headers_of(event_type=text, content_type=text, traceparent=text, webhook_id=text)
    assert "x-event-type" not in headers
    assert "traceparent" not in headers
    assert "webhook-id" not in headers
    assert headers["content-type"] == "application/octet-stream"


REFUSED = [
    "Host",
    "Content-Length",
    "content-type",
    "Connection",
    "keep-alive",
    "Proxy-Authorization",
    "Transfer-Encoding",
    "TE",
    "Trailer",
    "Upgrade",
    "HTTP2-Settings",
    "Expect",
    "webhook-id",
    "Webhook-Signature",
    "webhook-anything",
    "X-Hub-Signature-256",
    "X-Hooklog-Hops",
    "User-Agent",
]


@pytest.mark.parametrize(
    "header", [*((name, "x") for name in REFUSED), ("X-A", "b\r\nX-Evil: 1"), ("X\r\nY", "1"), ("X-A", "\n")]
)
def test_a_header_that_came_into_the_table_past_the_api_is_refused_at_send(header: tuple[str, str]) -> None:
    refused = build_request(delivery(), subscription(headers=(("X-Fine", "1"), header)), NOW_MS)
    assert isinstance(refused, Refused)
    assert refused.reason == "bad_header"
    assert not header[0] or header[0] not in refused.details


def test_a_header_that_is_there_twice_is_refused_at_send() -> None:
    twice = (("X-Key", "1"), ("x-key", "2"))
    assert isinstance(build_request(delivery(), subscription(headers=twice), NOW_MS), Refused)
