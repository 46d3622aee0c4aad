"""Secrets at rest, without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encryption import Cipher, generate_key
from shared.errors import ConfigurationError

_KEY = generate_key()


@given(st.binary(max_size=200))
def test_what_is_sealed_opens_and_does_not_show(clear: bytes) -> None:
    sealed = Cipher(_KEY).seal(clear)
    assert Cipher(_KEY).open(sealed) == clear
    assert len(clear) < 8 or clear not in sealed.encode()


def test_the_first_key_seals_and_every_key_opens() -> None:
    old, new = generate_key(), generate_key()
    sealed_before = Cipher(old).seal(b"before")
    both = Cipher(f"{new}, {old}")
    assert both.open(sealed_before) == b"before"
    assert Cipher(new).open(both.seal(b"after")) == b"after"


@pytest.mark.parametrize("setting", ["", " , ", "too-short", "%" * 44, "\N{SNOWMAN}" * 44, "one-bad,and-another"])
def test_a_bad_or_missing_key_is_one_line_without_the_key(setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cipher(setting)
    message = str(caught.value)
    assert message.startswith("ENCRYPTION_KEY: ")
    assert "\n" not in message
    assert not any(part.strip() in message for part in setting.split(",") if part.strip())


@pytest.mark.parametrize("sealed", ["", "nothing", "\N{SNOWMAN}", None])
def test_what_another_key_sealed_does_not_open(sealed: str | None) -> None:
    sealed = Cipher(generate_key()).seal(b"other") if sealed is None else sealed
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEY: not the key"):
        Cipher(_KEY).open(sealed)
