"""`hooklog up` on the stores of this run: first event, printed commands, a killed process, Ctrl-C, and once more."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg2
import pytest

from deploy.program import free_port
from tests.processes import children_of, wait_until_gone
from tests.stacks import Stack

_LAST_LINE = "Ctrl-C stops all of it."


class Up:
    """One running `hooklog up` and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str, within_s: float = 90) -> str:
        """The first match in the output."""
        deadline = time.monotonic() + within_s
        while not (found := re.search(pattern, self.text)):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)
        return found[0]


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Its own database and topics on the stores of this run, named as a user names external ones."""
    name = f"t{secrets.token_hex(5)}"
    yield {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "DATABASE_URL": urlsplit(stack.database_url)._replace(path=f"/{name}").geturl(),
        "REDIS_URL": stack.redis_url,
        "TOPIC_PREFIX": f"{name}.",
        "DATA_DIR": str(tmp_path / "data"),
        "API_PORT": str(free_port()),
        "PARTITIONS": "2",
        "RETRY_DELAYS": "1s",
    }
    connection = psycopg2.connect(stack.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'drop database if exists "{name}" with (force)')
    connection.close()


@contextmanager
def _up(environment: dict[str, str], folder: Path) -> Iterator[Up]:
    output = folder / "output"
    command = (Path(sys.executable).with_name("hooklog"), "up")
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield Up(process, output)
    finally:
        process.kill()
        process.wait()


def test_up_delivers_a_first_event_survives_a_kill_and_starts_again(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with _up(environment, tmp_path) as up:
        up.wait_for(_LAST_LINE)
        assert "first event: delivered: 2" in up.text
        webhook_id = up.wait_for(r"first event: event (\S+)").split()[-1]
        _paste(up.text, tmp_path)
        children = children_of(up.process.pid)
        _kill_one(children, "ingest_api")
        up.wait_for(r"!! api died \(SIGKILL\); starting it again(.|\n)*api is ready")
        children |= children_of(up.process.pid)
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(30) == 0
        assert wait_until_gone(children, 5) == set()
    with _up(environment, tmp_path) as up:
        up.wait_for(_LAST_LINE)
        earlier = httpx.get(f"http://127.0.0.1:{environment['API_PORT']}/status/{webhook_id}").json()
        assert earlier["status"] == "succeeded"
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(30) == 0


def _commands(text: str) -> list[str]:
    return re.findall(r"^  ((?:body=|curl |sleep ).*)$", text, re.MULTILINE)


def _paste(text: str, folder: Path) -> None:
    """The printed commands do what they say: as printed where there is a curl, else their signature and address."""
    body, send, look = _commands(text)
    if shutil.which("curl"):
        answer = json.loads(_output_of(f"{body}\n{send}", folder))
        assert answer["status"] == "accepted"
        deadline = time.monotonic() + 30
        while answer["webhook_id"] not in _output_of(look, folder):
            assert time.monotonic() < deadline
    signing, url = re.search(r"\$\((.*?)\)", send), send.split()[-1]
    assert signing
    name, _, value = _output_of(f"{body}\n{signing[1]}", folder).strip().partition(": ")
    content = body.removeprefix("body='").removesuffix("'")
    answer = httpx.post(url, content=content, headers={name: value, "Content-Type": "application/json"})
    assert answer.status_code == 202


def _output_of(script: str, folder: Path) -> str:
    done = subprocess.run(("sh", "-c", script), cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def _kill_one(pids: set[int], module: str) -> None:
    for pid in pids:
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"{module} is not among {pids}")
