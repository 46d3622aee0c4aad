"""IANA's special-purpose registries (iana-ipv4-special-registry, iana-ipv6-special-registry), row by row.

Written apart from `shared/address.py`, which merges rows: what the tests compare it with. Rows that IANA calls
globally reachable are here as well: none of them is a receiver of webhooks. Left out are the four that hold an IPv4
address, ::ffff:0:0/96, 64:ff9b::/96, 2001::/32 and 2002::/16: `wrappings`.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network

SPECIAL_V4 = {
    IPv4Network("0.0.0.0/8"): "this network, RFC 791",
    IPv4Network("0.0.0.0/32"): "this host on this network, RFC 1122",
    IPv4Network("10.0.0.0/8"): "private use, RFC 1918",
    IPv4Network("100.64.0.0/10"): "shared address space, RFC 6598",
    IPv4Network("127.0.0.0/8"): "loopback, RFC 1122",
    IPv4Network("169.254.0.0/16"): "link-local, RFC 3927",
    IPv4Network("172.16.0.0/12"): "private use, RFC 1918",
    IPv4Network("192.0.0.0/24"): "protocol assignments, RFC 6890",
    IPv4Network("192.0.0.0/29"): "IPv4 service continuity, RFC 7335",
    IPv4Network("192.0.0.8/32"): "dummy address, RFC 7600",
    IPv4Network("192.0.0.9/32"): "port control anycast, RFC 7723",
    IPv4Network("192.0.0.10/32"): "TURN anycast, RFC 8155",
    IPv4Network("192.0.0.170/31"): "NAT64 discovery, RFC 7050",
    IPv4Network("192.0.2.0/24"): "documentation, RFC 5737",
    IPv4Network("192.31.196.0/24"): "AS112, RFC 7535",
    IPv4Network("192.52.193.0/24"): "AMT, RFC 7450",
    IPv4Network("192.88.99.0/24"): "6to4 relay anycast, RFC 7526",
    IPv4Network("192.168.0.0/16"): "private use, RFC 1918",
    IPv4Network("192.175.48.0/24"): "AS112 direct delegation, RFC 7534",
    IPv4Network("198.18.0.0/15"): "benchmarking, RFC 2544",
    IPv4Network("198.51.100.0/24"): "documentation, RFC 5737",
    IPv4Network("203.0.113.0/24"): "documentation, RFC 5737",
    IPv4Network("240.0.0.0/4"): "reserved, RFC 1112",
    IPv4Network("255.255.255.255/32"): "limited broadcast, RFC 919",
}
#: In no row, and no unicast either, or not the internet's.
NOT_PUBLIC_V4 = {
    IPv4Network("224.0.0.0/4"): "multicast, RFC 1112",
    IPv4Network("168.63.129.16/32"): "Azure's host agent",
}
SPECIAL_V6 = {
    IPv6Network("::1/128"): "loopback, RFC 4291",
    IPv6Network("::/128"): "unspecified, RFC 4291",
    IPv6Network("64:ff9b:1::/48"): "NAT64 for local use, RFC 8215",
    IPv6Network("100::/64"): "discard only, RFC 6666",
    IPv6Network("100:0:0:1::/64"): "dummy prefix, RFC 9780",
    IPv6Network("2001::/23"): "protocol assignments, RFC 2928; Teredo in it is looked into",
    IPv6Network("2001:1::1/128"): "port control anycast, RFC 7723",
    IPv6Network("2001:1::2/128"): "TURN anycast, RFC 8155",
    IPv6Network("2001:1::3/128"): "DNS-SD anycast, RFC 9665",
    IPv6Network("2001:2::/48"): "benchmarking, RFC 5180",
    IPv6Network("2001:3::/32"): "AMT, RFC 7450",
    IPv6Network("2001:4:112::/48"): "AS112, RFC 7535",
    IPv6Network("2001:10::/28"): "ORCHID, RFC 4843",
    IPv6Network("2001:20::/28"): "ORCHIDv2, RFC 7343",
    IPv6Network("2001:30::/28"): "drones, RFC 9374",
    IPv6Network("2001:db8::/32"): "documentation, RFC 3849",
    IPv6Network("2620:4f:8000::/48"): "AS112 direct delegation, RFC 7534",
    IPv6Network("3fff::/20"): "documentation, RFC 9637",
    IPv6Network("5f00::/16"): "segment routing, RFC 9602",
    IPv6Network("fc00::/7"): "unique local, RFC 4193",
    IPv6Network("fe80::/10"): "link-local, RFC 4291",
}
#: In no row, and no unicast of the internet.
NOT_PUBLIC_V6 = {
    IPv6Network("fec0::/10"): "site-local, RFC 3879",
    IPv6Network("ff00::/8"): "multicast, RFC 4291",
    IPv6Network("4000::/3"): "unassigned",
    IPv6Network("8000::/1"): "unassigned, and the two above",
    IPv6Network("200::/7"): "NSAP, RFC 4048",
}


def wrappings(v4: int, rest: int = 0) -> list[IPv6Address]:
    """Every way to write an IPv4 address into an IPv6 one; ``rest`` fills the bits that each leaves open."""
    low_16, low_64, low_80 = rest & 0xFFFF, rest & (1 << 64) - 1, rest & (1 << 80) - 1
    return [
        IPv6Address(number)
        for number in (
            0xFFFF << 32 | v4,
            0xFFFF << 48 | v4,
            0x64_FF9B << 96 | v4,
            0x2002 << 112 | v4 << 80 | low_80,
            0x2001_0000 << 96 | (low_64 >> 16 & 0xFFFFFFFF) << 64 | low_16 << 32 | v4 ^ 0xFFFFFFFF,
            0x2606_4700_0000_0000 << 64 | 0x0000_5EFE << 32 | v4,
            0x2606_4700_0000_0000 << 64 | 0x0200_5EFE << 32 | v4,
            *([v4] if v4 > 1 else []),  # :: and ::1 are themselves
        )
    ]
