"""Signatures of what we send, against what others have published."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from shared.signature import (
    decode_signing_secret,
    generate_private_key,
    generate_signing_secret,
    public_key_text,
    standard_signature,
)

# The example of the Standard Webhooks specification and of its libraries' tests; v1a: of Svix' server and libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PRIVATE_KEY = base64.b64decode("6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=")
PUBLIC_KEY = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
MESSAGE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


def test_published_vectors_of_both_versions() -> None:
    key, seed = decode_signing_secret(SECRET), PRIVATE_KEY
    assert standard_signature((key,), *MESSAGE) == V1
    assert standard_signature((), *MESSAGE, private_keys=(seed,)) == V1A
    assert standard_signature((key,), *MESSAGE, private_keys=(seed,)) == f"{V1} {V1A}"
    assert public_key_text(seed) == PUBLIC_KEY


# RFC 8032 section 7.1, tests 1 to 3: private key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("private", "public", "message", "signature"), RFC_8032)
def test_the_keys_are_those_of_rfc_8032(private: str, public: str, message: str, signature: str) -> None:
    seed = bytes.fromhex(private)
    assert base64.b64decode(public_key_text(seed).removeprefix("whpk_")).hex() == public
    assert Ed25519PrivateKey.from_private_bytes(seed).sign(bytes.fromhex(message)).hex() == signature


@given(st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1), st.text())
def test_the_library_of_the_standard_verifies_what_we_sign(webhook_id: str, text: str) -> None:
    """It reads bodies as text, and v1 alone: a v1a beside it does not disturb."""
    secret, at_s = generate_signing_secret(), int(datetime.now(UTC).timestamp())
    body = text.encode("utf-8", "replace")
    signature = standard_signature(
        (decode_signing_secret(secret),), webhook_id, at_s, body, private_keys=(generate_private_key(),)
    )
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(at_s), "webhook-signature": signature}
    assert Webhook(secret).sign(webhook_id, datetime.fromtimestamp(at_s, UTC), body.decode()) == signature.split(" ")[0]
    with suppress(ValueError):  # verified, and then the library wants JSON
        Webhook(secret).verify(body, headers)


@given(st.binary(), st.integers(0, 2**33))
def test_v1a_verifies_with_the_public_key_over_these_bytes_alone(body: bytes, at_s: int) -> None:
    private_key = generate_private_key()
    version, _, coded = standard_signature((), "msg_1", at_s, body, private_keys=(private_key,)).partition(",")
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key_text(private_key).removeprefix("whpk_")))
    assert version == "v1a"
    public.verify(base64.b64decode(coded), f"msg_1.{at_s}.".encode() + body)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(coded), f"msg_1.{at_s}.".encode() + body + b" ")
