"""Which addresses are called."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from shared.address import Address, Network, permitted, read_address, unwrap
from tests.special_networks import NOT_PUBLIC_V4, NOT_PUBLIC_V6, SPECIAL_V4, SPECIAL_V6, wrappings

REFUSED = {
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10 first": "10.0.0.0",
    "private 10 last": "10.255.255.255",
    "carrier-grade NAT first": "100.64.0.0",
    "Alibaba metadata": "100.100.100.200",
    "carrier-grade NAT last": "100.127.255.255",
    "loopback": "127.0.0.1",
    "loopback last": "127.255.255.255",
    "Azure host agent": "168.63.129.16",
    "link-local first": "169.254.0.0",
    "cloud metadata": "169.254.169.254",
    "ECS metadata": "169.254.170.2",
    "private 172 first": "172.16.0.0",
    "private 172 last": "172.31.255.255",
    "protocol assignments": "192.0.0.1",
    "Oracle metadata": "192.0.0.192",
    "documentation 1": "192.0.2.1",
    "6to4 relay": "192.88.99.1",
    "private 192 first": "192.168.0.0",
    "private 192 last": "192.168.255.255",
    "benchmarking first": "198.18.0.0",
    "benchmarking last": "198.19.255.255",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "multicast first": "224.0.0.0",
    "multicast last": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v6 loopback, long": "0:0:0:0:0:0:0:1",
    "v4-compatible loopback": "::127.0.0.1",
    "v4-compatible private": "::a00:1",
    "v4-mapped loopback": "::ffff:127.0.0.1",
    "v4-mapped loopback in hex": "::ffff:7f00:1",
    "v4-mapped metadata": "::ffff:169.254.169.254",
    "v4-mapped unspecified": "::ffff:0.0.0.0",
    "v4-translated private": "::ffff:0:10.0.0.1",
    "NAT64 loopback": "64:ff9b::127.0.0.1",
    "NAT64 private": "64:ff9b::a00:1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 local use": "64:ff9b:1::1",
    "discard only": "100::1",
    "6to4 loopback": "2002:7f00:1::",
    "6to4 private": "2002:a00:1::1",
    "6to4 metadata": "2002:a9fe:a9fe::1",
    "Teredo, private client": "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "Teredo, loopback client": "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "v6 benchmarking": "2001:2::1",
    "ORCHID": "2001:10::1",
    "ORCHID v2": "2001:20::1",
    "protocol assignments v6": "2001:1::1",
    "documentation v6": "2001:db8::1",
    "documentation v6, newer": "3fff::1",
    "segment routing": "5f00::1",
    "unique local": "fc00::1",
    "unique local, in use": "fd12:3456::1",
    "AWS metadata v6": "fd00:ec2::254",
    "link-local v6": "fe80::1",
    "link-local v6 with a zone": "fe80::1%eth0",
    "site-local": "fec0::1",
    "multicast v6": "ff02::1",
    "multicast v6, global": "ff0e::1",
    "unassigned v6": "4000::1",
    "last": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
}
CALLED = {
    "public": "8.8.8.8",
    "first public": "1.0.0.0",
    "before private 10": "9.255.255.255",
    "after private 10": "11.0.0.0",
    "before carrier-grade NAT": "100.63.255.255",
    "after carrier-grade NAT": "100.128.0.0",
    "before loopback": "126.255.255.255",
    "after loopback": "128.0.0.0",
    "beside Azure's agent": "168.63.129.17",
    "before link-local": "169.253.255.255",
    "after link-local": "169.255.0.0",
    "before private 172": "172.15.255.255",
    "after private 172": "172.32.0.0",
    "before private 192": "192.167.255.255",
    "after private 192": "192.169.0.0",
    "after benchmarking": "198.20.0.0",
    "before multicast": "223.255.255.255",
    "v6": "2606:4700:4700::1111",
    "v6 first": "2001:200::1",
    "v6 last": "3ffe:ffff::1",
    "v4-mapped public": "::ffff:8.8.8.8",
    "NAT64 public": "64:ff9b::808:808",
    "6to4 public": "2002:808:808::1",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_public_is_refused(text: str) -> None:
    assert not permitted(read_address(text))


@pytest.mark.parametrize("text", CALLED.values(), ids=CALLED.keys())
def test_what_is_public_is_called(text: str) -> None:
    assert permitted(read_address(text))


def _edges(network: Network) -> set[Address]:
    return {network[0], network[-1], network[network.num_addresses // 2]}


@pytest.mark.parametrize(
    "network", [*SPECIAL_V4, *NOT_PUBLIC_V4, *SPECIAL_V6, *NOT_PUBLIC_V6], ids=lambda network: str(network)
)
def test_every_special_network_is_refused_from_end_to_end(network: Network) -> None:
    for address in _edges(network):
        assert not permitted(address), address


@pytest.mark.parametrize("network", [*SPECIAL_V4, *NOT_PUBLIC_V4], ids=lambda network: str(network))
def test_an_ipv4_network_is_refused_inside_every_wrapping(network: IPv4Network) -> None:
    for v4 in _edges(network):
        assert [str(outer) for outer in wrappings(int(v4)) if permitted(outer)] == []


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::1.2.3.4", "1.2.3.4"),
        ("::ffff:0:1.2.3.4", "1.2.3.4"),
        ("64:ff9b::1.2.3.4", "1.2.3.4"),
        ("2002:102:304:5::6", "1.2.3.4"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"),  # RFC 4380's own example
        ("2606:4700::5efe:1.2.3.4", "1.2.3.4"),  # ISATAP
        ("2606:4700::200:5efe:1.2.3.4", "1.2.3.4"),
        ("fe80::5efe:1.2.3.4", "1.2.3.4"),
        ("2002:102:304:0:0:5efe:10.0.0.1", "1.2.3.4"),  # what is around it decides where it goes first
        ("64:ff9b:1::1.2.3.4", "64:ff9b:1::102:304"),  # local use: its form is not ours to know
        ("::ffff:1.2.3.4%eth0", "1.2.3.4"),
        ("::", "::"),
        ("::1", "::1"),
        ("2606:4700::1", "2606:4700::1"),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_an_address_inside_another_is_found(outer: str, inner: str) -> None:
    assert unwrap(ip_address(outer)) == ip_address(inner)


def test_a_zone_changes_nothing() -> None:
    assert not permitted(ip_address("::1%1"))
    assert not permitted(ip_address("::ffff:127.0.0.1%1"))
    assert permitted(ip_address("2606:4700::1%1"))


def test_both_addresses_of_isatap_are_asked_about() -> None:
    assert permitted(ip_address("2606:4700::5efe:8.8.8.8"))
    assert not permitted(ip_address("2606:4700::5efe:10.0.0.1"))
    assert not permitted(ip_address("fe80::5efe:8.8.8.8"))
    assert not permitted(ip_address("fd00::200:5efe:8.8.8.8"), [ip_network("8.8.8.8/32")])
    assert permitted(ip_address("fd00::200:5efe:10.0.0.1"), [ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def test_nat64_for_local_use_is_called_when_it_is_allowed_itself() -> None:
    """Its form is the translator's secret: whoever allows it has to know what it leads to."""
    address = ip_address("64:ff9b:1::8.8.8.8")
    assert not permitted(address)
    assert not permitted(address, [ip_network("0.0.0.0/0")])
    assert permitted(address, [ip_network("64:ff9b:1::/48")])


def test_the_allow_list_is_asked_of_the_unwrapped_address() -> None:
    allowed = [ip_network("127.0.0.0/8"), ip_network("fd00::/8")]
    assert permitted(ip_address("127.0.0.1"), allowed)
    assert permitted(ip_address("::ffff:127.0.0.1"), allowed)
    assert permitted(ip_address("fd00::1"), allowed)
    assert not permitted(ip_address("::1"), allowed)
    assert not permitted(ip_address("10.0.0.1"), allowed)
    assert not permitted(ip_address("::ffff:10.0.0.1"), [ip_network("::ffff:0:0/96")])
    assert permitted(ip_address("64:ff9b::7f00:1"), allowed)
    assert permitted(ip_address("2002:7f00:1::"), allowed)
    assert not permitted(ip_address("64:ff9b::7f00:1"), [ip_network("64:ff9b::/96")])
    assert not permitted(ip_address("2002:7f00:1::"), [ip_network("2002::/16")])
