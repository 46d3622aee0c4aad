"""The table of times at the end of `make test`."""

from __future__ import annotations

import pytest

from tests.budgets import Budgets, suite_of


def test_each_folder_is_a_suite_and_quick_tests_are_the_check() -> None:
    assert suite_of("tests/unit/test_a.py::test_b[x]") == "check"
    assert suite_of("tests/property/test_a.py::test_b") == "check"
    assert suite_of("tests/end_to_end/deep/test_a.py::test_b") == "end_to_end"
    assert suite_of("tests/benchmarks/test_a.py::test_b") is None
    assert suite_of("tests/test_a.py::test_b") is None


def test_a_suite_costs_setup_call_and_teardown() -> None:
    budgets = Budgets()
    for when, seconds in [("setup", 100.0), ("call", 75.0), ("teardown", 10.0)]:
        budgets.pytest_runtest_logreport(_report("tests/contract/test_a.py::test_b", when, seconds))
    (line,) = budgets.lines()
    assert (line.suite, line.tests, line.spent_s, line.over) == ("contract", 1, 185.0, True)
    assert "OVER BUDGET" in str(line)


def test_the_check_includes_its_static_part() -> None:
    budgets = Budgets(static_s=12.0)
    budgets.pytest_runtest_logreport(_report("tests/unit/test_a.py::test_b", "call", 3.0))
    (line,) = budgets.lines()
    assert (line.suite, line.spent_s, line.over) == ("check", 15.0, False)


def _report(nodeid: str, when: str, duration_s: float) -> pytest.TestReport:
    report = pytest.TestReport(nodeid, ("", 0, ""), {}, "passed", None, when, duration=duration_s)  # type: ignore[arg-type]
    assert report.when == when
    return report
