"""`kill -9` of the supervisor: nothing that it started stays, and the same folder starts again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import children_of, wait_until_gone

_WAYS = ["kernel", "pipe"] if sys.platform.startswith("linux") else ["pipe"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: that is private to us, and Postgres' own user (when we are root) has to reach it."""
    with tempfile.TemporaryDirectory(prefix="hooklog-tests-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize("way", _WAYS)
def test_a_killed_supervisor_leaves_no_process_and_can_start_again(folder: Path, way: str) -> None:
    for _ in range(2):  # the second one starts on what the first one left
        with subprocess.Popen(
            (sys.executable, "-m", "tests.faults.supervised", str(folder), way),
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as supervisor:
            assert supervisor.stdout
            started = json.loads(supervisor.stdout.readline())
            grandchildren = children_of(started["postgres"])
            assert grandchildren or not Path("/proc/self").exists()
            supervisor.kill()
        assert wait_until_gone({*started.values(), *grandchildren}, within_s=10) == set()
