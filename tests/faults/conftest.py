"""The stack that may be killed, the figures of the run, and which form of the suite this is.

A test marked ``long_form`` is there with FAULTS=long alone, one marked ``short_form`` without it alone: the other one
is deselected, not skipped, and the end of the run says so.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.faults.figures import Figures
from tests.faults.form import LONG, SEED
from tests.own_stack import OwnStack
from tests.proxied_stack import ProxiedStack

_FIGURES = pytest.StashKey[Figures]()
_LEFT_OUT = pytest.StashKey[int]()
#: `make faults` names it: where the figures go as well.
_WRITTEN_TO = "FAULTS_FIGURES"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long_form: there with FAULTS=long alone")
    config.addinivalue_line("markers", "short_form: there without FAULTS=long alone")
    config.stash[_FIGURES] = Figures(SEED)
    config.stash[_LEFT_OUT] = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.get_closest_marker("short_form" if LONG else "long_form")]
    items[:] = [item for item in items if item not in left_out]
    config.stash[_LEFT_OUT] = len(left_out)
    for item in items:
        if item.get_closest_marker("long_form") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if not LONG and not config.stash[_LEFT_OUT]:
        return
    form = "long form" if LONG else f"SHORT FORM: {config.stash[_LEFT_OUT]} tests are in `make faults` alone"
    terminalreporter.section(f"faults, {form}; FAULTS_SEED={SEED}")
    figures = config.stash[_FIGURES]
    for line in figures.lines():
        terminalreporter.write_line(line)
    if name := os.environ.get(_WRITTEN_TO):
        figures.write(Path(name), _ended(terminalreporter))


def _ended(reporter: TerminalReporter) -> list[str]:
    """How many tests passed and did not, and which did not."""
    ends = {end: reporter.getreports(end) for end in ("passed", "failed", "error", "skipped")}
    counts = ", ".join(f"{len(reports)} {end}" for end, reports in ends.items() if reports)
    return [counts, *(f"{end} {one.nodeid}" for end in ("failed", "error", "skipped") for one in ends[end])]


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    """What every trial of this run came to."""
    return request.config.stash[_FIGURES]


@pytest.fixture(scope="session")
async def proxied_stack() -> AsyncIterator[ProxiedStack]:
    """Kafka, Postgres and Redis of the fault tests alone: each trial takes fresh names on it."""
    async with ProxiedStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def own_stack(proxied_stack: ProxiedStack) -> OwnStack:
    """The same, for who does not go over its ways."""
    return proxied_stack
