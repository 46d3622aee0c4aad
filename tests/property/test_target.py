"""Where we are willing to POST, for every address and every text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.address import Address, Network, permitted, unwrap
from shared.target_url import parse_target
from tests.special_networks import NOT_PUBLIC_V4, NOT_PUBLIC_V6, SPECIAL_V4, SPECIAL_V6, wrappings

GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")  # RFC 4291, as far as IANA gives addresses out
NETWORKS: tuple[Network, ...] = (*SPECIAL_V4, *NOT_PUBLIC_V4, *SPECIAL_V6, *NOT_PUBLIC_V6, GLOBAL_UNICAST_V6)
#: Each wrapping with nothing in it, and its bits below.
WRAPPERS = [ip_network(f"{outer}/{bits}", strict=False) for outer in wrappings(2**32 - 1) for bits in (16, 32, 64, 96)]


def _near(network: Network) -> st.SearchStrategy[Address]:
    """In it, at its ends, and just outside."""
    first, last = int(network[0]), int(network[-1])
    address: type[IPv4Address] | type[IPv6Address] = IPv4Address if network.version == 4 else IPv6Address
    edges = [n for n in (first - 1, first, first + 1, last - 1, last, last + 1) if 0 <= n < 2**network.max_prefixlen]
    return (st.sampled_from(edges) | st.integers(first, last)).map(address)


near_v4 = st.sampled_from([*SPECIAL_V4, *NOT_PUBLIC_V4]).flatmap(_near).map(lambda v4: IPv4Address(int(v4)))
v4s = near_v4 | st.integers(0, 2**32 - 1).map(IPv4Address)
addresses: st.SearchStrategy[Address] = st.one_of(
    v4s,
    st.sampled_from(NETWORKS).flatmap(_near),
    st.sampled_from(WRAPPERS).flatmap(_near),
    st.integers(0, 2**128 - 1).map(IPv6Address),
    st.builds(wrappings, v4s.map(int), st.integers(0, 2**80 - 1)).flatmap(st.sampled_from),
)


def _global_unicast_and_not_special(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in (*SPECIAL_V4, *NOT_PUBLIC_V4))
    return address in GLOBAL_UNICAST_V6 and not any(address in network for network in (*SPECIAL_V6, *NOT_PUBLIC_V6))


ISATAP_HOSTS = (0x0000_5EFE, 0x0200_5EFE)


def _is_isatap(address: Address) -> bool:
    holds = unwrap(address)
    return (
        holds != address and int(address) >> 32 & 0xFFFFFFFF in ISATAP_HOSTS and int(address) >> 112 not in (0, 0x2002)
    )


@given(addresses)
def test_an_address_is_called_when_what_is_inside_is_global_unicast_and_not_special(address: Address) -> None:
    # Of ISATAP the network around it as well; of everything else that wraps, the wrapper is no place of its own.
    around = address if _is_isatap(address) else unwrap(address)
    both = {_global_unicast_and_not_special(unwrap(address)), _global_unicast_and_not_special(around)}
    assert permitted(address) == (both == {True})


@given(v4s, st.integers(0, 2**80 - 1))
def test_wrapping_an_ipv4_address_changes_nothing(v4: IPv4Address, rest: int) -> None:
    outer: list[Address] = [*wrappings(int(v4), rest)]
    assert {unwrap(address) for address in outer} == {v4}
    assert {permitted(address) for address in outer} == {permitted(v4)}


@given(v4s, st.integers(0, 2**80 - 1), st.integers(0, 32))
def test_allowing_an_ipv4_network_allows_it_in_every_wrapping_and_nothing_else(
    v4: IPv4Address, rest: int, bits: int
) -> None:
    network = ip_network(f"{v4}/{bits}", strict=False)
    outer: list[Address] = [v4, *wrappings(int(v4), rest)]
    assert all(permitted(address, [network]) for address in outer)
    beside = IPv4Address(int(v4) ^ 1 << 31)
    assert permitted(beside, [network]) == (permitted(beside) or beside in network)


@given(addresses)
def test_an_allowed_wrapping_opens_no_way_to_what_is_inside(address: Address) -> None:
    """The allow-list is asked of what a packet ends at."""
    outer = [ip_network("::ffff:0:0/96"), ip_network("64:ff9b::/96"), ip_network("2002::/16"), ip_network("2001::/32")]
    if unwrap(address) != address:
        assert permitted(address, outer) == permitted(address)


@given(addresses)
def test_what_the_standard_library_calls_private_is_never_called(address: Address) -> None:
    if permitted(address):
        inner = unwrap(address)
        assert inner.is_global
        assert not inner.is_multicast


_TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)
_HOSTS = st.text(
    st.sampled_from("0123456789abcdefxX.:[]%@/\\#?- \u3002\uff0e\uff10\uff11\uff17\u2460\u00ad\u200d"), max_size=30
)


@settings(deadline=None)  # the first internationalised name loads tables
@given(
    st.one_of(
        _TEXT,
        st.builds("http://{}/{}".format, _TEXT, _TEXT),
        st.builds("https://{}:{}".format, _TEXT, _TEXT),
        st.builds("http://{}/".format, _HOSTS),
    )
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
