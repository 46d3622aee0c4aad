"""What all trials of a run came to, in lines for people."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.oracle import Verdict
from tests.faults.trial import Struck

#: Findings of one trial.
_SHOWN = 20


class Figures:
    """Adds up faults, ends and repeats."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._totals: Counter[str] = Counter()
        self._struck: list[tuple[Struck, int, int]] = []
        self._said: list[str] = []
        self._found: list[str] = []

    def add(self, struck: Sequence[Struck], verdict: Verdict) -> None:
        """One trial, counted."""
        counted = zip(struck, verdict.repeats, strict=True)
        self._struck += [(one, repeats, window.bound) for one, (window, repeats) in counted]
        self._totals.update(
            trials=1,
            accepted=verdict.accepted,
            lost=verdict.lost,
            rows=verdict.rows,
            findings=len(verdict.findings),
            repeated=verdict.repeated,
            unexplained=len(verdict.unexplained),
            unanswered_delivered=verdict.unanswered_delivered,
            dead_though_arrived=verdict.dead_though_arrived,
        )
        self._found += [f"finding: {one}" for one in verdict.findings[:_SHOWN]]
        self._totals.update({f"ended {status}": count for status, count in verdict.ended.items()})

    def say(self, line: str) -> None:
        """Something a test measured beside all that."""
        self._said.append(line)

    def lines(self) -> list[str]:
        """None when nothing was tried."""
        total = self._totals
        if not total["trials"]:
            return []
        return [
            f"seed {self._seed}, {total['trials']} loads, {len(self._struck)} faults",
            f"accepted {total['accepted']}: delivered {total['ended succeeded']}, dead {total['ended failed']}, "
            f"cancelled {total['ended cancelled']}, lost {total['lost']}",
            f"rows of attempts {total['rows']}, findings {total['findings']}",
            *self._found,
            f"repeated {total['repeated']}, of those unexplained {total['unexplained']}",
            f"delivered without an answer to their producers {total['unanswered_delivered']}, "
            f"dead letters although the endpoint had said 2xx {total['dead_though_arrived']}",
            *self._by_victim(),
            *self._said,
        ]

    def _by_victim(self) -> Iterable[str]:
        groups: defaultdict[tuple[str, str], list[tuple[Struck, int, int]]] = defaultdict(list)
        for each in self._struck:
            groups[each[0].kind, each[0].victim].append(each)
        if groups:
            yield "min / median / p95 / max: repeats of a fault, what it may repeat, seconds to ready and to a delivery"
        for (kind, victim), its in sorted(groups.items()):
            repeats, bounds = _spread([n for _, n, _ in its]), _spread([bound for _, _, bound in its])
            ready = _spread([one.ready_after_s for one, _, _ in its], ".1f")
            works = _spread([one.works_after_s for one, _, _ in its], ".1f")
            yield f"{kind:<8} {victim:<16} {len(its):>3}x  {repeats}  |  {bounds}  |  {ready}  |  {works}"

    def write(self, path: Path, ended: Sequence[str]) -> None:
        """The same into a file, if anything was tried, after ``ended``: how the tests ended."""
        if lines := self.lines():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([f"make faults, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", *ended, "", *lines, ""]))


def _spread(values: Sequence[float], form: str = ".0f") -> str:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    spread = (ordered[0], statistics.median(ordered), p95, ordered[-1])
    return " / ".join(format(value, form) for value in spread)
