"""Pure: the development profile of `make up`. The environment and `.env` win over it, with an empty value too."""

from __future__ import annotations

from collections.abc import Mapping

PROFILE = {"ALLOWED_TARGET_NETWORKS": "127.0.0.0/8,::1/128", "DEV_RECEIVER": "true"}


def with_profile(environment: Mapping[str, str], env_file: Mapping[str, str | None]) -> dict[str, str]:
    """Everything that was said, by upper-case name: the environment over `.env` over the profile."""
    said = {name.upper(): value or "" for name, value in env_file.items()}
    return {**PROFILE, **said, **{name.upper(): value for name, value in environment.items()}}


def named(said: Mapping[str, str], name: str) -> str:
    """An address that was named and is not empty, else ""."""
    return said.get(name, "").strip()
