"""`hooklog keys` against the real API: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from cli.main import app
from shared.settings import Settings
from tests.api.conftest import Api, running_api
from tests.api.test_keys import ADMIN, bearer


@pytest.fixture(scope="module")
async def locked(api_settings: Settings) -> AsyncIterator[Api]:
    async with running_api(api_settings.model_copy(update={"admin_api_key": SecretStr(ADMIN)})) as running:
        yield running


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


async def hooklog(api: Api, *arguments: str, **environment: str) -> Done:
    """``hooklog keys …``, asking this API, in this process: a program of its own takes seconds to start."""
    ended = await asyncio.to_thread(
        CliRunner().invoke, app, ["keys", *arguments], env=variables(api) | environment, catch_exceptions=False
    )
    return Done(ended.exit_code, ended.stdout, ended.stderr)


def variables(api: Api) -> dict[str, str]:
    return {"API_PORT": str(api.port), "API_HOST": "127.0.0.1", "ADMIN_API_KEY": ADMIN, "HOOKLOG_API_KEY": ""}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without `.env`."""
    monkeypatch.chdir(tmp_path)


async def works(api: Api, key: str) -> bool:
    return (await api.client.get("/subscriptions/", headers=bearer(key))).status_code == 200


async def test_create_prints_the_key_alone_and_list_and_revoke_know_it(locked: Api) -> None:
    made = await hooklog(locked, "create", "--role", "read", "--tenant", "cli", "--name", "größe")
    assert made.returncode == 0, made.stderr
    key = made.stdout.removesuffix("\n")
    assert await works(locked, key)
    assert "read, tenant cli: größe" in made.stderr
    listed = await hooklog(locked, "list")
    [line] = [line for line in listed.stdout.splitlines() if key[:8] in line]
    assert key[8:] not in listed.stdout + made.stderr
    revoked = await hooklog(locked, "revoke", line.split()[0])
    assert (revoked.returncode, revoked.stdout) == (0, f"revoked {line.split()[0]}\n")
    assert not await works(locked, key)


async def test_the_command_is_installed(locked: Api) -> None:
    command = [str(Path(sys.executable).with_name("hooklog")), "keys", "list", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | variables(locked), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)


async def test_json_is_what_the_api_answered(locked: Api) -> None:
    made = await hooklog(locked, "create", "--role", "admin", "--json")
    created = json.loads(made.stdout)
    assert await works(locked, created["key"])
    listed: list[dict[str, Any]] = json.loads((await hooklog(locked, "list", "--json")).stdout)
    assert created["id"] in {one["id"] for one in listed}
    assert not [one for one in listed if "key" in one]
    revoked = await hooklog(locked, "revoke", created["id"], "--json", HOOKLOG_API_KEY=created["key"])
    assert json.loads(revoked.stdout) == {"id": created["id"], "revoked": True}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["revoke", "no-such-key"], {}, 1, "404: There is no such key."),
        (["revoke", "../subscriptions"], {}, 1, "404: "),
        (["list"], {"HOOKLOG_API_KEY": "hk_wrong"}, 1, "401: "),
        (["list"], {"ADMIN_API_KEY": "", "HOOKLOG_API_KEY": ""}, 1, "401: "),
        (["list"], {"API_PORT": "9"}, 1, "http://127.0.0.1:9: "),
        (["list", "--url", "ftp://x"], {}, 2, "HOOKLOG_URL: "),
        (["list"], {"API_PORT": "many"}, 2, "API_PORT: "),
        (["create", "--role", "read", "--tenant", "no tenant"], {}, 1, "422: tenant: "),
    ],
)
async def test_a_refusal_is_one_line_and_an_exit_code(
    locked: Api, arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    done = await hooklog(locked, *arguments, **environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"hooklog: {said}")
    assert done.stderr.count("\n") == 1
    assert ADMIN not in done.stderr
    assert "hk_wrong" not in done.stderr


@pytest.mark.parametrize("arguments", [["create"], ["create", "--role", "king"], ["revoke"], ["crown"]])
async def test_arguments_that_cannot_be_used_are_exit_2(locked: Api, arguments: list[str]) -> None:
    done = await hooklog(locked, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
