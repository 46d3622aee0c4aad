"""Pure: where the API may listen when it asks for no key."""

from __future__ import annotations

from ipaddress import ip_address

from shared.errors import ConfigurationError
from shared.settings import Settings


def check_bind_address(settings: Settings) -> None:
    """Raises ConfigurationError: others could reach us and no key is asked."""
    if not settings.admin_api_key.get_secret_value() and not _is_loopback(settings.api_host):
        raise ConfigurationError("API_HOST is not loopback: set ADMIN_API_KEY, or listen on 127.0.0.1")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
