"""Pure: which addresses we are willing to call.

A subscriber chooses the URL and we make the call from inside our network, so whatever is not plainly public is refused
(SSRF). The networks are listed here rather than asked of `ipaddress`, whose answers changed between Python versions:
IANA's special-purpose registries, reachable or not, and what clouds have put elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Where the last 32 bits are the IPv4 address.
_V4_AT_THE_END = tuple(
    IPv6Network(network)
    for network in (
        "::ffff:0:0/96",  # v4-mapped, RFC 4291 section 2.5.5.2
        "::/96",  # v4-compatible, RFC 4291 section 2.5.5.1, deprecated; :: and ::1 are not of it
        "::ffff:0:0:0/96",  # v4-translated, RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
    )
)
#: RFC 5214 section 6.1: the interface identifier of ISATAP under any prefix, the "universal" bit set or not.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent: public by number, the platform's own by route
        "169.254.0.0/16",  # link-local; the metadata services of AWS, Google Cloud, Azure
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle Cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112: a sink that any network may run inside
        "192.52.193.0/24",  # automatic multicast tunneling
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
)
#: Everything public is in here. Loopback, unique local, link-local, site-local, multicast and the rest are not; nor is
#: 64:ff9b:1::/48, NAT64 for local use (RFC 8215): where in it the IPv4 address stands is known to the translator alone.
_PUBLIC_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: benchmarking, ORCHID, drones
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


def unwrap(address: Address) -> Address:
    """The IPv4 address a packet to this IPv6 address may end at, when the one is written inside the other.

    v4-mapped, v4-compatible, v4-translated, NAT64 (64:ff9b::/96), 6to4, Teredo's client, ISATAP; anything else
    unchanged.
    """
    if isinstance(address, IPv4Address):
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    number = int(address)
    at_the_end = number > 1 and any(address in network for network in _V4_AT_THE_END)
    return IPv4Address(number & 0xFFFFFFFF) if at_the_end or _is_isatap(address) else address


def permitted(address: Address, allowed_networks: Collection[Network] = ()) -> bool:
    """Whether we call it: public, or in one of ``allowed_networks``. Both are asked of the unwrapped address.

    Of an ISATAP address both are asked twice: the network around the IPv4 address chooses where a packet goes first.
    """
    asked = (unwrap(address), address) if _is_isatap(address) else (unwrap(address),)
    return all(_public(one) or _in_any(one, allowed_networks) for one in asked)


def read_address(text: str) -> Address:
    """An address as the resolver writes it; a zone (``fe80::1%eth0``) is cut off. Raises ValueError."""
    return ip_address(text.partition("%")[0])


def _in_any(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _in_any(address, _REFUSED_V4)
    return address in _PUBLIC_V6 and not _in_any(address, _REFUSED_V6)


def _is_isatap(address: Address) -> bool:
    if isinstance(address, IPv4Address) or address.sixtofour is not None or address.teredo is not None:
        return False
    return int(address) >> 32 & 0xFFFFFFFF in _ISATAP and int(address) >> 64 != 0
