"""What a benchmark says: lines while it runs, a verdict for each limit, and the same in a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple


class Verdict(NamedTuple):
    """One limit and what was measured."""

    what: str
    measured: str
    limit: str
    holds: bool
    #: "": it counts. Else why it does not, here.
    unless: str = ""

    def __str__(self) -> str:
        word = f"SKIP ({self.unless})" if self.unless else "PASS" if self.holds else "FAIL"
        return f"{word}  {self.what}: {self.measured} (limit {self.limit})"


def at_least(what: str, measured: float, limit: float, unit: str, *, counts: bool = True, why: str = "") -> Verdict:
    """A limit from below."""
    shown = f"{measured:.2f}{unit}", f">= {limit:g}{unit}"
    return Verdict(what, *shown, measured >= limit, "" if counts else why)


def at_most(what: str, measured: float, limit: float, unit: str) -> Verdict:
    """A limit from above."""
    return Verdict(what, f"{measured:.2f}{unit}", f"<= {limit:g}{unit}", measured <= limit)


class Report:
    """Lines to people, and to ``folder`` at the end."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._name, self._folder = name, folder
        self._lines: list[str] = []

    def say(self, line: str) -> None:
        print(line, flush=True)
        self._lines.append(line)

    def conclude(self, verdicts: list[Verdict]) -> bool:
        """Whether every limit that counts holds."""
        for verdict in verdicts:
            self.say(str(verdict))
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            text = "\n".join([f"{self._name}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", *self._lines, ""])
            (self._folder / f"{self._name}.txt").write_text(text)
        return all(verdict.holds or verdict.unless for verdict in verdicts)
