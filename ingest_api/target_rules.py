"""Pure: which URLs a subscription may name: the early no.

The sender vets every address again when it connects.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from shared.address import Network, permitted
from shared.own_ports import RECEIVER_PATHS, is_this_machine, own_ports
from shared.settings import Settings
from shared.target_url import Target, parse_target


@dataclass(frozen=True, slots=True)
class TargetRules:
    """``own_ports`` are the stack's, on loopback; ``receiver_port`` is the API's while it serves /point1."""

    allowed_networks: tuple[Network, ...]
    own_ports: frozenset[int]
    receiver_port: int | None = None

    def check(self, url: str) -> None:
        """Raises ValueError with a reason for people, which does not repeat the URL."""
        target = parse_target(url)
        if self._is_own(target):
            raise ValueError("points at a port of this installation")
        try:
            address = ip_address(target.host)
        except ValueError:
            return  # a name: vetted when it is resolved, at each attempt
        if not permitted(address, self.allowed_networks):
            raise ValueError("points at an address that is not public (ALLOWED_TARGET_NETWORKS makes exceptions)")

    def _is_own(self, target: Target) -> bool:
        if target.port not in self.own_ports or not is_this_machine(target.host):
            return False
        path = target.path.partition("?")[0]
        return not (target.port == self.receiver_port and path in RECEIVER_PATHS)


def rules_of(settings: Settings) -> TargetRules:
    """What these settings allow."""
    return TargetRules(
        allowed_networks=settings.allowed_target_networks,
        own_ports=own_ports(settings),
        receiver_port=settings.api_port if settings.dev_receiver else None,
    )
