"""Pure: an endpoint's URL, parsed once and in one way, by the API that accepts it and by the sender that calls it.

Two parsers that disagree on where a host ends are how address guards are fooled, so this one takes few forms and no
unusual ones: http or https, a host, perhaps a port, a path, perhaps a query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

URL_MAX_CHARS = 2048
#: RFC 1035: what fits a DNS name.
HOST_MAX_CHARS = 253

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHAPE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<path>[^?]*)(?P<query>\?.*)?")
_AUTHORITY = re.compile(r"(?:\[(?P<literal>[^\[\]]*)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{0,5}))?")
#: Underscores are no host name's (RFC 952) but exist; a label neither starts nor ends with a hyphen.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: What inet_aton takes for a number: 127.1, 2130706433, 0x7f.1, 0177.0.0.1.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to POST. ``host`` is lower-case ASCII, without brackets; ``path`` is the request target, query included."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        """RFC 9110 section 7.2: brackets around IPv6, the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The same target in its one normal spelling."""
        return f"{self.scheme}://{self.host_header}{self.path}"


def parse_target(url: str) -> Target:
    """The target of an http or https URL.

    Raises ValueError with a reason for people; it never repeats the URL, whose path and query may hold secrets.
    """
    if len(url) > URL_MAX_CHARS:
        raise ValueError(f"is longer than {URL_MAX_CHARS} characters")
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("holds a space, a backslash or a control character")
    if "#" in url:
        raise ValueError("has a fragment (#…), which no server ever sees")
    shape = _SHAPE.fullmatch(url)
    scheme = shape["scheme"].lower() if shape else ""
    if shape is None or scheme not in _DEFAULT_PORTS:
        raise ValueError("is not an absolute http:// or https:// URL")
    host, port = _host_and_port(shape["authority"], _DEFAULT_PORTS[scheme])
    path = (shape["path"] or "/") + (shape["query"] or "")
    if not path.isascii():
        raise ValueError("has a path or query with characters that need percent-encoding")
    return Target(scheme, host, port, path)


def _host_and_port(authority: str, default_port: int) -> tuple[str, int]:
    if "@" in authority:
        raise ValueError("has a user name or password in it; use a header instead")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("has no host, or one that cannot be read")
    port = int(parts["port"]) if parts["port"] else default_port
    if not 1 <= port <= 65535:
        raise ValueError("has a port outside 1 to 65535")
    return _ipv6(parts["literal"]) if parts["name"] is None else _host(parts["name"]), port


def _ipv6(literal: str) -> str:
    try:
        if "%" in literal:  # a zone (RFC 4007) means something on one machine only
            raise AddressValueError
        return str(IPv6Address(literal))
    except AddressValueError:
        raise ValueError("has brackets around something that is not an IPv6 address") from None


def _host(name: str) -> str:
    host = _to_ascii(name).lower().removesuffix(".")
    if _NUMERIC_END.fullmatch(host):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise ValueError("has a host that looks like a number; write an IPv4 address as a.b.c.d") from None
    if len(host) > HOST_MAX_CHARS or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError("has a host that is not a DNS name")
    return host


def _to_ascii(name: str) -> str:
    if name.isascii():
        return name
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise ValueError("has a host that is not a valid internationalised name") from None
