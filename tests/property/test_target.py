"""Where we are willing to POST, for every address and every text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from shared.address import permitted, unwrap
from shared.target_url import parse_target

V4 = st.integers(0, 2**32 - 1).map(IPv4Address)


@given(V4)
def test_wrapping_an_ipv4_address_changes_nothing(v4: IPv4Address) -> None:
    n = int(v4)
    wrapped = [
        0xFFFF << 32 | n,
        0xFFFF << 48 | n,
        0x64_FF9B << 96 | n,
        0x2002 << 112 | n << 80 | 0x1234,
        0x2001_0000 << 96 | 0x4136E378 << 64 | n ^ 0xFFFFFFFF,
    ]
    assert {permitted(IPv6Address(outer)) for outer in wrapped} == {permitted(v4)}


@given(st.one_of(V4, st.integers(0, 2**128 - 1).map(IPv6Address)))
def test_what_the_standard_library_calls_private_is_never_called(address: IPv4Address | IPv6Address) -> None:
    if permitted(address):
        inner = unwrap(address)
        assert inner.is_global
        assert not inner.is_multicast


_TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)


@given(
    st.one_of(_TEXT, st.builds("http://{}/{}".format, _TEXT, _TEXT), st.builds("https://{}:{}".format, _TEXT, _TEXT))
)
def test_whatever_is_accepted_is_plain_ascii_and_reads_the_same_again(url: str) -> None:
    try:
        target = parse_target(url)
    except ValueError:
        return
    sent = target.host_header + target.path
    assert sent.isascii()
    assert sent.isprintable()
    assert " " not in sent
    assert "@" not in target.host_header
    assert parse_target(target.url) == target
