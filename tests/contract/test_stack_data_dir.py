"""DATA_DIR and ports: one line, exit 2, and nothing started."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.data_dir import DataDir
from deploy.embedded_postgres import POSTGRES_VERSION
from deploy.program import bindable, free_port
from shared.errors import ConfigurationError

_VERSIONS = {"postgres": "18"}


def _up(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`hooklog up` in a folder without a `.env`."""
    command = Path(sys.executable).with_name("hooklog")
    return subprocess.run(
        (command, "up"),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_data_dir_in_use_is_one_line_and_exit_2(tmp_path: Path) -> None:
    held = DataDir.open(tmp_path / "data", versions=_VERSIONS)
    done = _up(tmp_path, DATA_DIR=str(tmp_path / "data"), API_PORT="0")
    held.close()
    assert done.returncode == 2
    assert done.stderr == f"hooklog: DATA_DIR: {tmp_path}/data is in use by a running stack (pid {os.getpid()})\n"


@pytest.mark.parametrize("name", ["empty", "new"])
def test_an_empty_folder_is_opened_for_passing_through_and_a_used_one_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        DataDir.open(tmp_path / name, versions=_VERSIONS).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o711
    (tmp_path / name).chmod(0o700)
    DataDir.open(tmp_path / name, versions=_VERSIONS).close()
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_taken_api_port_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = _up(tmp_path, DATA_DIR=str(tmp_path / "data"), API_PORT=str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"hooklog: API_PORT: {port} on 127.0.0.1 is taken")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_setting_that_cannot_be_read_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = _up(tmp_path, DATA_DIR=str(tmp_path / "data"), RETRY_DELAYS="soon")
    assert done.returncode == 2
    assert done.stderr.startswith("hooklog: RETRY_DELAYS: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_HOST", "0.0.0.0"), ("ENCRYPTION_KEY", "short"), ("MAX_RESTARTS", "-1"), ("KAFKA_BROKERS", "2")],
)
def test_a_setting_that_cannot_work_is_said_before_anything_starts(tmp_path: Path, name: str, value: str) -> None:
    done = _up(tmp_path, DATA_DIR=str(tmp_path / "data"), **{"API_PORT": "0", name: value})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"hooklog: {name}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_data_dir_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"^DATA_DIR: .*/file/data cannot be used: Not a directory$"):
        DataDir.open(tmp_path / "file" / "data", versions=_VERSIONS)


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    DataDir.open(tmp_path, versions={"postgres": "16"}).close()
    with pytest.raises(ConfigurationError, match="written by postgres 16, this is postgres 18"):
        DataDir.open(tmp_path, versions=_VERSIONS)


@pytest.mark.parametrize(("made_for", "asked", "data"), [(1, 3, "data"), (3, 1, "node-2/data")])
def test_files_of_another_number_of_brokers_are_refused_in_one_line(
    tmp_path: Path, made_for: int, asked: int, data: str
) -> None:
    folder = tmp_path / "data" / "kafka"
    DataDir.open(folder.parent, versions={"postgres": POSTGRES_VERSION}).close()
    (folder / data).mkdir(parents=True)
    (folder / data / "meta.properties").touch()
    elsewhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "API_PORT": "0"}
    done = _up(tmp_path, DATA_DIR=str(folder.parent), KAFKA_BROKERS=str(asked), **elsewhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hooklog: KAFKA_BROKERS: {folder} was made for {made_for} and cannot become {asked}; "
        f"set KAFKA_BROKERS={made_for}, or name another DATA_DIR\n"
    )


def test_files_without_a_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    with pytest.raises(ConfigurationError, match="unknown version"):
        DataDir.open(tmp_path, versions=_VERSIONS)


def test_a_closed_data_dir_can_be_taken_again_and_its_key_stays(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path / "data", versions=_VERSIONS)
    key = first.encryption_key()
    first.close()
    second = DataDir.open(tmp_path / "data", versions=_VERSIONS)
    assert second.encryption_key() == key
    second.close()
    assert stat.S_IMODE((tmp_path / "data" / "encryption.key").stat().st_mode) == 0o600


def test_stack_env_survives_a_shell(tmp_path: Path) -> None:
    data_dir = DataDir.open(tmp_path, versions=_VERSIONS)
    path = data_dir.write_stack_env({"DATABASE_URL": "postgresql://a:b'$x@h/d", "REDIS_URL": ""})
    data_dir.close()
    script = f"set -a; . {path}; exec {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    read = json.loads(subprocess.run(("sh", "-c", script), capture_output=True, text=True, check=True).stdout)
    assert read["DATABASE_URL"] == "postgresql://a:b'$x@h/d"
    assert read["REDIS_URL"] == ""


def test_a_taken_internal_port_gives_way_to_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert bindable(port) is None
        assert free_port(port) > port
