"""Pure: which ports of this machine are the stack's own; deliveries must never reach them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from shared.address import unwrap
from shared.settings import Settings

#: The development receiver, the one place of ours that may be a target.
RECEIVER_PATHS = ("/point1", "/point1/")


def own_ports(settings: Settings) -> frozenset[int]:
    """Kafka's, Postgres' and Redis' ports where they are on this machine, the API's, and our own health port."""
    brokers = [f"//{broker.strip()}" for broker in settings.kafka_bootstrap_servers.split(",")]
    stores = [settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()]
    return frozenset({settings.api_port, settings.health_port, *_ports([*brokers, *stores])} - {0})


def receiver_urls(settings: Settings) -> frozenset[str]:
    """The URLs of the development receiver, as a subscription may spell them; none while it is off."""
    if not settings.dev_receiver:
        return frozenset()
    hosts = ("127.0.0.1", "localhost", "[::1]")
    return frozenset(f"http://{host}:{settings.api_port}{path}" for host in hosts for path in RECEIVER_PATHS)


def is_this_machine(host: str) -> bool:
    """Loopback or unspecified, by name or by address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        inner = unwrap(ip_address(host))
    except ValueError:
        return False
    return inner.is_loopback or inner.is_unspecified


def _ports(urls: Iterable[str]) -> Iterable[int]:
    for url in urls:
        try:
            parts = urlsplit(url)
            if parts.hostname and parts.port and is_this_machine(parts.hostname):
                yield parts.port
        except ValueError:
            continue  # the client that needs this URL says so
