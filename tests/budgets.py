"""How long each suite took, against the time it may take: a pytest plugin, loaded by `make test`.

Over budget is loud and fails nothing: a slow machine is no broken build.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest
from _pytest.terminal import TerminalReporter

#: Seconds each suite may take, in the order in which they run.
BUDGETS_S = {"check": 60, "contract": 180, "api": 180, "end_to_end": 240, "faults": 300}

#: Seconds that the static part of the check took before pytest began (`make test` measures it).
STATIC_SECONDS = "STATIC_SECONDS"

_CHECK = {"unit", "property"}


@dataclass(frozen=True, slots=True)
class Line:
    """One suite's time against its budget."""

    suite: str
    tests: int
    spent_s: float
    budget_s: int

    @property
    def over(self) -> bool:
        return self.spent_s > self.budget_s

    def __str__(self) -> str:
        verdict = "OVER BUDGET" if self.over else "ok"
        return f"{self.suite:<12} {self.tests:>5} tests {self.spent_s:>7.1f} s of {self.budget_s:>3} s  {verdict}"


class Budgets:
    """Adds up what each phase of each test took."""

    def __init__(self, static_s: float = 0.0) -> None:
        self._spent_s: defaultdict[str, float] = defaultdict(float)
        self._tests: defaultdict[str, int] = defaultdict(int)
        self._static_s = static_s

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = suite_of(report.nodeid)
        if suite is None:
            return
        self._spent_s[suite] += report.duration
        # A skipped test ends in its setup and never gets to its call.
        if report.when == "call" or (report.when == "setup" and report.skipped):
            self._tests[suite] += 1

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        terminalreporter.section("time of each suite")
        for line in self.lines():
            terminalreporter.write_line(str(line), red=line.over, bold=line.over)

    def lines(self) -> list[Line]:
        """The suites that ran, in the order of the budgets; the check includes its static part."""
        extra_s = {"check": self._static_s}
        return [
            Line(suite, self._tests[suite], self._spent_s[suite] + extra_s.get(suite, 0.0), budget_s)
            for suite, budget_s in BUDGETS_S.items()
            if self._tests[suite]
        ]


def suite_of(nodeid: str) -> str | None:
    """``tests/contract/test_x.py::test_y`` -> ``contract``; unit and property tests belong to the check."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    folder = parts[1] if len(parts) > 2 and parts[0] == "tests" else ""
    suite = "check" if folder in _CHECK else folder
    return suite if suite in BUDGETS_S else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Budgets(float(os.environ.get(STATIC_SECONDS) or 0)), "suite-budgets")
