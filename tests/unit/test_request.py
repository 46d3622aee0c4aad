"""The POST a receiver gets (CONTRACT: what a receiver gets)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from delivery_stream.request import build_request
from shared.signature import generate_signing_secret
from tests.unit.examples import NOW_MS, delivery, subscription


def headers_of(**changes: object) -> dict[str, str]:
    request = build_request(delivery(**changes), subscription(secret=b"s"), NOW_MS)
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
    request = build_request(delivery(), subscription(signing_keys=keys), NOW_MS)
    signatures = dict(request.headers)["webhook-signature"].split(" ")
    assert len(signatures) == 2
    for secret, signature in zip(secrets, signatures, strict=True):
        at = datetime.fromtimestamp(NOW_MS // 1000, tz=UTC)
        assert Webhook(secret).sign(delivery().webhook_id, at, '{"a":1}') == signature


def test_without_a_secret_there_is_no_hub_signature_and_own_headers_come_last() -> None:
    request = build_request(delivery(), subscription(headers=(("Authorization", "Bearer x"),)), NOW_MS)
    assert request.headers[-1] == ("Authorization", "Bearer x")
    assert "X-Hub-Signature-256" not in dict(request.headers)


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\x00", "é", "x" * 300, ""])
def test_what_a_foreign_record_brought_does_not_become_a_header_unless_it_is_harmless(text: str) -> None:
    headers = headers_of(event_type=text, content_type=text, traceparent=text, webhook_id=text)
    assert "x-event-type" not in headers
    assert "traceparent" not in headers
    assert "webhook-id" not in headers
    assert headers["content-type"] == "application/octet-stream"
