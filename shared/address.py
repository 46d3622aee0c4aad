"""Pure: which addresses we are willing to call.

A subscriber chooses the URL and we make the call from inside our network, so whatever is not plainly public is refused
(SSRF). The networks are listed here rather than asked of `ipaddress`, whose answers changed between Python versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_V4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291 section 2.5.5.1, deprecated; :: and ::1 are not of it
_V4_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765

#: IANA's special-purpose registry and what else is nobody's web server.
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
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
)
#: Everything public is in here; loopback, unique local, link-local, site-local, multicast and the rest are not.
_PUBLIC_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: benchmarking, ORCHID, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: what is inside was looked at
        "3fff::/20",  # documentation
    )
)


def unwrap(address: Address) -> Address:
    """The IPv4 address a packet to this IPv6 address may end at, when the one is written inside the other.

    v4-mapped, v4-compatible, v4-translated, NAT64 (64:ff9b::/96), 6to4, and Teredo's client; anything else unchanged.
    """
    if isinstance(address, IPv4Address):
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    wraps = address in _NAT64 or address in _V4_TRANSLATED or (address in _V4_COMPATIBLE and int(address) > 1)
    return IPv4Address(int(address) & 0xFFFFFFFF) if wraps else address


def permitted(address: Address, allowed_networks: Iterable[Network] = ()) -> bool:
    """Whether we call it: public, or in one of ``allowed_networks``. Both are asked of the unwrapped address."""
    inner = unwrap(address)
    return any(inner in network for network in allowed_networks) or _public(inner)


def read_address(text: str) -> Address:
    """An address as the resolver writes it; a zone (``fe80::1%eth0``) is cut off. Raises ValueError."""
    return ip_address(text.partition("%")[0])


def _public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _REFUSED_V6)
