"""The API over HTTP, as the commands ask it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from shared.errors import ConfigurationError, HooklogError
from shared.settings import Settings

URL_VARIABLE = "HOOKLOG_URL"
KEY_VARIABLE = "HOOKLOG_API_KEY"
_TIMEOUT_S = 30.0
#: Where `API_HOST` means every address, this machine is one of them.
_HERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}  # noqa: S104
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Refused(HooklogError):
    """The API answered with an error, or not at all. The text is one line for people."""


@dataclass(frozen=True, slots=True)
class Api:
    """Where the API is, and the key that is shown to it."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def of(cls, settings: Settings, url: str | None) -> Api:
        """``url``, else $HOOKLOG_URL, else API_HOST and API_PORT. Raises ConfigurationError."""
        host = _HERE.get(settings.api_host, settings.api_host)
        base = url or os.environ.get(URL_VARIABLE) or f"http://{host}:{settings.api_port}"
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigurationError(f"{URL_VARIABLE}: needs http:// or https:// and a host, without user and password")
        key = os.environ.get(KEY_VARIABLE) or settings.admin_api_key.get_secret_value()
        if not key.isascii() or not key.isprintable():
            raise ConfigurationError(f"{KEY_VARIABLE}: holds characters that no key has")
        return cls(base.rstrip("/"), key.strip())

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON; None when it has no body. Raises Refused."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        # A proxy of this machine leads elsewhere than to this machine.
        through_proxy = urlsplit(self.url).hostname not in _LOOPBACK
        try:
            with httpx.Client(headers=headers, timeout=_TIMEOUT_S, trust_env=through_proxy) as client:
                answer = client.request(method, f"{self.url}{path}", **options)
        except httpx.HTTPError as error:
            raise Refused(f"{self.url}: {error or type(error).__name__}") from None
        if not answer.is_success:
            raise Refused(_what_was_wrong(answer))
        return _json(answer) if answer.content else None


def _what_was_wrong(answer: httpx.Response) -> str:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    return f"{answer.status_code}: {detail}"


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise Refused(f"{answer.url.host} answered with something that is not JSON") from None
