"""A server that is not installed: a skip that says so, and in CI a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_servers import KINDS, program_of

PROGRAMS = [kind for kind in KINDS if kind != "uvicorn"]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_is_missing_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SERVERS_REQUIRED", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{kind} is not installed: the sender is not tried against it"):
        program_of(kind)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_is_missing_in_ci_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SERVERS_REQUIRED", "1")
    with pytest.raises(pytest.fail.Exception, match=f"{kind} is not installed"):
        program_of(kind)


def test_ci_requires_them_all() -> None:
    text = (Path(__file__).parents[2] / ".ci/run").read_text()
    assert "SERVERS_REQUIRED=1" in text
    assert all(f"{kind}:" in text for kind in PROGRAMS)
