"""The hooklog command: what it prints and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

# The example of GitHub's documentation on validating webhook deliveries, for the body `Hello, World!`.
_SECRET = "It's a Secret to Everybody"
_HEADER = "X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17\n"


def test_sign_prints_the_header_for_standard_input() -> None:
    done = CliRunner().invoke(app, ["sign"], input="Hello, World!", env={"HOOKLOG_SECRET": _SECRET})
    assert (done.exit_code, done.stdout) == (0, _HEADER)


def test_sign_takes_the_exact_bytes_of_a_file_and_the_secret_of_another(tmp_path: Path) -> None:
    (tmp_path / "body").write_text("Hello, World!")
    (tmp_path / "secret").write_text(f"{_SECRET}\n")
    done = CliRunner().invoke(app, ["sign", str(tmp_path / "body"), "--secret-file", str(tmp_path / "secret")])
    assert (done.exit_code, done.stdout) == (0, _HEADER)


def test_sign_without_a_secret_or_somebody_to_ask_is_exit_2() -> None:
    done = CliRunner().invoke(app, ["sign"], input="body", env={"HOOKLOG_SECRET": ""})
    assert done.exit_code == 2
    assert done.stderr.startswith("hooklog: no secret")


def test_sign_of_a_file_that_is_not_there_is_exit_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sign", str(tmp_path / "missing")], env={"HOOKLOG_SECRET": _SECRET})
    assert done.exit_code == 2
    assert "No such file" in done.stderr


def test_migrate_with_an_unusable_setting_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITIONS", "many")
    done = CliRunner().invoke(app, ["migrate"])
    assert done.exit_code == 2
    assert done.stderr.startswith("hooklog: PARTITIONS: ")
    assert done.stderr.count("\n") == 1
