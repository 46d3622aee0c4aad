"""What no file of the repository may hold, and what each tool's configuration promises."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

#: Hosts that serve packages, in pieces: this file is searched as well.
REGISTRIES = [
    ("pypi", "org"),
    ("files", "pythonhosted", "org"),
    ("repo1", "maven", "org"),
    ("repo", "maven", "apache", "org"),
    ("registry", "npmjs", "org"),
    ("registry-1", "docker", "io"),
    ("proxy", "golang", "org"),
]
_REGISTRY = re.compile("|".join(re.escape(".".join(host)) for host in REGISTRIES))
#: A path that exists on one machine only; a URL's path is none.
_MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:root|home|Users|work|mnt)/\w|[A-Z]:\\Users\\")


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    """Where packages come from is the machine's affair, and no clone lies where another does."""
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in _files()
        for number, line in enumerate(_lines(ROOT / path), start=1)
        if _REGISTRY.search(line) or _MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line", ["cd /" + "home/someone/src", "index = https://" + ".".join(REGISTRIES[0]) + "/simple"]
)
def test_search_for_them_finds_them(line: str) -> None:
    assert _REGISTRY.search(line) or _MACHINE_PATH.search(line)


def test_hooks_are_local_and_valid() -> None:
    path = ROOT / ".pre-commit-config.yaml"
    assert {repository["repo"] for repository in yaml.safe_load(path.read_text())["repos"]} == {"local"}
    command = [str(Path(sys.executable).with_name("pre-commit")), "validate-config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_make_test() -> None:
    path = ROOT / ".ci/run"
    assert path.stat().st_mode & 0o111
    assert path.read_text().rstrip().endswith("make --no-print-directory test")


def test_licence_is_the_one_the_project_names() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
    assert "Apache License\n" in text
    assert "Copyright 2026 The Hooklog authors" in text


def _files() -> list[str]:
    git = shutil.which("git")
    assert git, "git lists the files of the repository"
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _lines(path: Path) -> list[str]:
    """None for a file that is not text."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
