"""What every test with a trial does in the end: count, print, add to the figures, and demand that nothing is lost."""

from __future__ import annotations

from tests.faults.figures import Figures
from tests.faults.form import LONG, SEED
from tests.faults.oracle import Verdict
from tests.faults.trial import Trial


async def counted(trial: Trial, figures: Figures) -> Verdict:
    """The verdict, which has no findings."""
    if not LONG:
        await trial.end_in_favour()
    verdict = await trial.count()
    for one, (window, repeats) in zip(trial.struck, verdict.repeats, strict=True):
        print(f"{one}, {repeats} repeated, at most {window.bound}")
    print(verdict)
    figures.add(trial.struck, verdict)
    assert verdict.ok, f"FAULTS_SEED={SEED}\n{verdict}"
    return verdict


def refused(trial: Trial, first: int, last: int) -> int:
    """How many events, of those with these numbers, got no 202. Asked when their producers have stopped."""
    asked = [trial.load.sent[number] for number in range(first, last + 1)]
    return sum(not one.owed and not one.possible for one in asked)
