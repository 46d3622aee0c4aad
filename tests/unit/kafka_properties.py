"""Reading what stands in a server.properties."""

from __future__ import annotations


def parsed(text: str) -> dict[str, str]:
    """The properties by name."""
    lines = (line for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)
