"""The first thing `make up` does: the locked dependencies, or one line that says that a rerun resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
#: In the place of the .venv's python: notes which authorities pip would trust, and has no network.
_NO_NETWORK = """\
#!/bin/sh
printf %s "$REQUESTS_CA_BUNDLE" > trusted
echo 'ERROR: no connection' >&2
exit 1
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """As much of a clone as it takes, with a .venv that cannot reach a registry."""
    for name in ("Makefile", "pyproject.toml", "requirements"):
        whole = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
        whole(_ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(_NO_NETWORK)
    python.chmod(0o755)
    return tmp_path


def _make_venv(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(("make", "venv"), cwd=clone, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_network_a_line_says_that_a_rerun_resumes(clone: Path) -> None:
    done = _make_venv(clone)
    assert done.returncode
    reason, ours, _ = done.stderr.splitlines()
    assert reason == "ERROR: no connection"
    assert ours.startswith("Hooklog: the dependencies could not be fetched")
    assert "again to resume" in ours
    assert not (clone / ".venv/.installed").exists()


def test_pip_trusts_what_this_machine_trusts_unless_it_is_told_otherwise(clone: Path) -> None:
    authorities = clone / "authorities.pem"
    authorities.touch()
    _make_venv(clone, SSL_CERT_FILE=str(authorities))  # OpenSSL's own word for them
    assert (clone / "trusted").read_text() == str(authorities)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        _make_venv(clone, **{name: "/mine.pem"})
        assert (clone / "trusted").read_text() == "/mine.pem"
