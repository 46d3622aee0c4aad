"""Whatever a receiver does to a secret when it repeats it, what is kept of its answer does not tell it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from delivery_stream.decision import Answered, NoAnswer
from delivery_stream.masking import CAPTURED_BYTES, masked, without_secrets
from delivery_stream.request import Request, build_request
from shared.signature import SECRET_PREFIX
from tests.unit.examples import NOW_MS, delivery, subscription

VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
TOKENS = st.text(VISIBLE, min_size=8, max_size=80)
#: What is no part of such a token.
AROUND = st.text(st.sampled_from(" \n\té"), max_size=20)

ESCAPES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON of .NET": lambda text: "".join(one if one.isalnum() else f"\\u{ord(one):04X}" for one in text),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[1:-1],
    "URL": lambda text: quote(text, safe=""),
    "URL, lower case": lambda text: "".join(one if one.isalnum() else f"%{ord(one):02x}" for one in text),
    "HTML": html.escape,
    "HTML, numbers": lambda text: "".join(one if one.isalnum() else f"&#{ord(one)};" for one in text),
    "HTML, hexadecimal": lambda text: "".join(one if one.isalnum() else f"&#x{ord(one):X};" for one in text),
    "HTML of JSON": lambda text: html.escape(json.dumps(text)),
}


@pytest.mark.parametrize("escape", ESCAPES)
@given(secret=TOKENS, before=AROUND, after=AROUND)
@example(secret="a+b/c==&<'\"\\x", before="", after="")
def test_a_secret_is_masked_however_it_is_escaped(escape: str, secret: str, before: str, after: str) -> None:
    written = ESCAPES[escape](secret)
    kept = masked((before + written + after).encode(), [secret.encode()]).decode()
    assert written not in kept
    assert "***" in kept
    assert kept.startswith(before)
    assert kept.endswith(after)


@given(st.binary(max_size=300), st.lists(st.binary(min_size=8, max_size=20), max_size=5))
def test_what_holds_no_secret_stays_and_nothing_ends_in_an_exception(body: bytes, secrets: list[bytes]) -> None:
    kept = masked(body, secrets)
    assert not any(secret in kept for secret in secrets)
    assert masked(body, []) == body


@pytest.mark.parametrize("escape", ESCAPES)
@settings(max_examples=30)
@given(secret=TOKENS)
@example(secret="sk_live/x+y=\"&<>'\\%41&amp;z")
def test_a_secret_that_the_end_of_what_is_kept_cuts_is_masked(escape: str, secret: str) -> None:
    """From eight characters on, wherever the end is: within an escape as well."""
    opening, *characters = pieces(ESCAPES[escape], secret)
    written = opening + "".join(characters)
    for shown in range(len(opening + "".join(characters[:8])), len(written) + 1):
        body = written[:shown].rjust(CAPTURED_BYTES)
        kept = masked(body.encode(), [secret.encode()]).decode()
        assert kept.endswith("***")
        assert opening.startswith(kept.removesuffix("***").lstrip())


def pieces(written: Callable[[str], str], secret: str) -> list[str]:
    """What stands before a secret that is written so, and each of its characters."""
    around = len(written("")) // 2
    return [written("")[:around], *(written(one)[around:][: len(written(one)) - 2 * around] for one in secret)]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_no_way_around(codec: str) -> None:
    body = "token=abcdefgh-12345678;".encode(codec)
    assert b"e\0f\0g" not in masked(body, [b"abcdefgh-12345678"])


def test_a_short_one_is_masked_where_it_stands_alone() -> None:
    assert masked(b'{"X-Env": "abc", "n": "abcd", "m": 1}', [b"abc"]) == b'{"X-Env": "***", "n": "abcd", "m": 1}'


ONE = subscription(
    secret=b"the incoming secret",
    previous_secret=b"the one before it",
    signing_keys=(b"0123456789abcdef01234567",),
    headers=(("Authorization", "Bearer sk_live_51H8/x+y=="), ("X-Env", "qa"), ("Cookie", "session=0123456789abcdef")),
)


def request() -> Request:
    built = build_request(delivery(), ONE, NOW_MS)
    assert isinstance(built, Request)
    return built


@pytest.mark.parametrize("wrap", [str, json.dumps, html.escape, lambda text: quote(text, safe="")])
def test_a_receiver_that_echoes_its_request_tells_no_secret(wrap: Callable[[str], str]) -> None:
    headers = dict(request().headers)
    echoed = wrap("\n".join(f"{name}: {value}" for name, value in headers.items()))
    outcome = without_secrets(Answered(400, body=echoed.encode()), ONE, request())
    assert isinstance(outcome, Answered)
    kept = outcome.body.decode()
    secrets = [
        "sk_live_51H8",
        "0123456789abcdef",
        headers["webhook-signature"].partition(",")[2][:12],
        headers["X-Hub-Signature-256"].partition("=")[2],
    ]
    assert [secret for secret in secrets if secret in kept] == []
    # What is no secret is still there to debug with.
    assert headers["webhook-id"] in kept
    assert "X-Webhook-Attempt" in kept


def test_signatures_and_keys_are_masked_in_the_other_spellings_too() -> None:
    signature = base64.b64decode(dict(request().headers)["webhook-signature"].partition(",")[2])
    key = ONE.signing_keys[0]
    told = [
        signature.hex(),
        base64.urlsafe_b64encode(signature).decode(),
        SECRET_PREFIX + base64.b64encode(key).decode(),
        base64.b64encode(key).decode().rstrip("="),
        key.hex().upper(),
        "the incoming secret",
        "the one before it",
        base64.b64encode(b"the incoming secret").decode(),
    ]
    body = f"expected one of {told}".encode()
    outcome = without_secrets(Answered(401, body=body), ONE, request())
    assert isinstance(outcome, Answered)
    assert outcome.body.decode() == f"expected one of {['***'] * len(told)}"


def test_the_password_of_basic_authentication_is_masked_in_clear_too() -> None:
    one = subscription(headers=(("Authorization", "Basic " + base64.b64encode(b"shop:pa55word").decode()),))
    body = b"no shop with pa55word; shop:pa55word; c2hvcDpwYTU1d29yZA=="
    built = build_request(delivery(), one, NOW_MS)
    assert isinstance(built, Request)
    outcome = without_secrets(Answered(401, body=body), one, built)
    assert isinstance(outcome, Answered)
    assert outcome.body == b"no shop with ***; ***; ***"


def test_other_outcomes_and_empty_answers_are_left_alone() -> None:
    for outcome in (Answered(204), NoAnswer("timeout", "no whole answer in time"), Answered(200, body=b"ok")):
        assert without_secrets(outcome, ONE, request()) == outcome
