"""`python -m delivery_stream` as a program: how it says that it is stuck, and how a stop that is stuck ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx
import pytest

from delivery_stream.__main__ import STOP_DEADLINE_S
from delivery_stream.app import DRAIN_S
from deploy.program import free_port
from shared.settings import Settings
from tests.eventually import eventually
from tests.system import as_environment

STUCK = {"request": "one has been under way for 7 s beyond twice its deadline"}
#: The program, but its watchdog has found something, and its stop holds up the loop itself.
PROGRAM = f"""
import sys, time
from delivery_stream import __main__ as worker
worker.STOP_DEADLINE_S = 1.0
worker.Stream.stuck = lambda _stream: {STUCK}
worker.Sender.close = lambda _sender: time.sleep(60)
sys.exit(worker.main())
"""


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def running(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Without a broker, which it waits for."""
    alone = settings.model_copy(
        update={"kafka_bootstrap_servers": f"127.0.0.1:{free_port(taken={port})}", "health_port": port}
    )
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | as_environment(alone)) as process:
        try:
            yield process
        finally:
            process.kill()


def live(port: int) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/live", timeout=5)
    except httpx.TransportError:
        return None


async def test_who_is_stuck_is_not_live_and_says_why_and_a_stop_that_is_stuck_ends_at_its_deadline(
    settings: Settings, port: int
) -> None:
    with running(settings, port) as process:
        answer = await eventually(partial(live, port), within_s=30)
        assert answer.status_code == 503
        assert json.loads(answer.content)["troubles"] == STUCK
        told_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 1
        assert 0.9 < time.monotonic() - told_s < 10


def test_the_deadline_of_a_stop_leaves_room_for_what_it_finishes_first() -> None:
    assert DRAIN_S + 5 < STOP_DEADLINE_S <= 20
