"""Which processes of this machine still run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether it runs. A zombie does not: it has ended, and only its parent's look at it is missing."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state_and_parent(Path(f"/proc/{pid}/stat"))[0] != "Z"


def children_of(pid: int) -> set[int]:
    """Its direct children; empty where there is no /proc."""
    found = {int(path.parent.name): _state_and_parent(path)[1] for path in Path("/proc").glob("[0-9]*/stat")}
    return {child for child, parent in found.items() if parent == pid}


def wait_until_gone(pids: Iterable[int], within_s: float) -> set[int]:
    """Those that still run after ``within_s`` at most."""
    deadline, left = time.monotonic() + within_s, set(pids)
    while (left := {pid for pid in left if is_running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _state_and_parent(stat: Path) -> tuple[str, int]:
    try:
        state, parent = stat.read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "", 0
    return state, int(parent)
