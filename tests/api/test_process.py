"""`python -m ingest_api` as a program: what stops it from starting, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from cryptography.fernet import Fernet

from shared.settings import Settings
from tests.api.conftest import Api

_UP_S = 60.0


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "ENCRYPTION_KEY": settings.encryption_key.get_secret_value(),
        "TOPIC_PREFIX": settings.topic_prefix,
        "API_HOST": "127.0.0.1",
        "API_PORT": "0",
        "ADMIN_API_KEY": "",
        **more,
    }


def start(settings: Settings, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ingest_api"]
    return subprocess.Popen(command, env=environment(settings, **more), stderr=subprocess.PIPE, text=True)


def refused(settings: Settings, **more: str) -> str:
    """The one line of a process that did not start: exit 2."""
    process = start(settings, **more)
    _, said = process.communicate(timeout=_UP_S)
    assert process.returncode == 2
    [line] = [line for line in said.splitlines() if not line.startswith("{")]
    return line


def test_a_taken_port_is_one_line_that_names_the_setting(api_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(api_settings, API_PORT=str(port))
    assert "API_PORT" in line
    assert str(port) in line


def test_a_bind_address_that_others_reach_without_a_key_is_refused(api_settings: Settings) -> None:
    assert "ADMIN_API_KEY" in refused(api_settings, API_HOST="0.0.0.0")


def test_a_wrong_encryption_key_is_refused_and_not_shown(api_settings: Settings, api: Api) -> None:
    wrong = Fernet.generate_key().decode()
    line = refused(api_settings, ENCRYPTION_KEY=wrong)
    assert "ENCRYPTION_KEY" in line
    assert wrong not in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(api_settings: Settings, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start(api_settings, API_PORT=str(port))
    try:
        assert _answers(f"http://127.0.0.1:{port}/live")
        process.send_signal(number)
        _, said = process.communicate(timeout=25)
    finally:
        process.kill()
    assert process.returncode == 0, said


def _answers(url: str) -> bool:
    deadline_s = time.monotonic() + _UP_S
    while time.monotonic() < deadline_s:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
    return False
