"""Pure: what was sent, what arrived, what the log and the tables say -> whether anything was lost, and what came twice.

All times are seconds since 1970, on one clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

#: So many findings of one kind are shown; all are counted.
_SHOWN = 5
#: A repeat may wait for its turn, in a tier or for a breaker; one that comes later than this has another reason.
LATE_S = 30.0
#: A delivery goes nowhere from these.
ENDED = {"succeeded", "failed", "cancelled"}


class Key(NamedTuple):
    """One attempt."""

    webhook_id: str
    run: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.webhook_id} run {self.run} attempt {self.attempt}"


@dataclass(frozen=True, slots=True)
class Sent:
    """One event, as its producer knows it."""

    number: int
    body: bytes
    #: It was answered 202: these deliveries must come to an end. Webhook id -> subscription id.
    owed: Mapping[str, str] = field(default_factory=dict)
    #: There may be these as well: their subscription was deleted about that time.
    possible: Mapping[str, str] = field(default_factory=dict)
    #: No answer, or 503: it may have become so many deliveries, whose ids nobody was told.
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request at the receiver, and what it answered. The run is not on the wire: nothing is replayed here."""

    webhook_id: str
    attempt: int
    body: bytes
    status: int
    at_s: float

    @property
    def key(self) -> Key:
        return Key(self.webhook_id, 1, self.attempt)


@dataclass(frozen=True, slots=True)
class Logged:
    """One record of `attempts` that is about a delivery."""

    kind: str
    key: Key
    outcome: str | None
    reason: str | None
    at_s: float


@dataclass(frozen=True, slots=True)
class Buried:
    """One record of `dead-letter`."""

    webhook_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One row of Postgres' ``deliveries``."""

    webhook_id: str
    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Books:
    """Everything there is to count."""

    sent: Sequence[Sent]
    arrived: Sequence[Arrived]
    logged: Sequence[Logged]
    buried: Sequence[Buried]
    standing: Sequence[Standing]
    #: The rows of Postgres' ``attempts`` that are attempts.
    rows: Sequence[Key]
    #: Subscriptions that were deleted: their deliveries may be cancelled.
    deleted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Window:
    """One fault: from its beginning until it is over and a little later."""

    name: str
    began_s: float
    ended_s: float
    #: How many attempts it may repeat: what was under way, and what was finished and not committed.
    bound: int = 0
    #: So long after it a repeat may come that it is the reason of.
    late_s: float = LATE_S


@dataclass(frozen=True, slots=True)
class Repeat:
    """One attempt's request that was not its first."""

    key: Key
    before_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: what it is called, and whom it is about."""

    what: str
    who: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.who}{f' ({self.detail})' if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of everything; ``ok`` when there are no findings."""

    findings: tuple[Finding, ...]
    accepted: int
    #: How the accepted deliveries ended.
    ended: Mapping[str, int]
    lost: int
    #: Deliveries that arrived although their producer was told nothing, or 503.
    unanswered_delivered: int
    #: Dead letters whose endpoint had said 2xx: too late for us to hear it, or to another of two equal requests.
    dead_though_arrived: int
    rows: int
    #: By window, in the order of the windows.
    repeats: tuple[tuple[Window, int], ...]
    unexplained: tuple[Repeat, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def repeated(self) -> int:
        """All of them."""
        return sum(count for _, count in self.repeats) + len(self.unexplained)

    def __str__(self) -> str:
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.ended.items()))
        lines = [
            f"accepted {self.accepted}: {ended}; lost {self.lost}; {self.rows} rows; repeated {self.repeated}, "
            f"unexplained {len(self.unexplained)}; unanswered and delivered {self.unanswered_delivered}; "
            f"dead though arrived {self.dead_though_arrived}"
        ]
        counts = Counter(finding.what for finding in self.findings)
        shown: Counter[str] = Counter()
        for finding in self.findings:
            shown[finding.what] += 1
            if shown[finding.what] <= _SHOWN:
                lines.append(str(finding))
        lines += [f"{what}: {count} in all" for what, count in counts.items() if count > _SHOWN]
        return "\n".join(lines)


def judge(books: Books, windows: Sequence[Window] = ()) -> Verdict:
    """Count everything. Whatever must not be is a finding that names its id."""
    owed = {one: subscription for sent in books.sent for one, subscription in sent.owed.items()}
    possible = {one: subscription for sent in books.sent for one, subscription in sent.possible.items()}
    standing = {one.webhook_id: one for one in books.standing}
    arrived: defaultdict[str, list[Arrived]] = defaultdict(list)
    for arrival in books.arrived:
        arrived[arrival.webhook_id].append(arrival)

    lost, ends = _ends(books, owed, possible, standing, arrived)
    strangers, unanswered = _strangers(books, owed, possible, arrived)
    repeats, unexplained = attribute(repeats_of(books.arrived), windows)
    findings = [
        *lost,
        *ends,
        *strangers,
        *_bodies(books, arrived),
        *_rows(books),
        *_attempts(books, arrived),
        *(Finding("repeated for no reason", str(one.key), f"at {one.at_s:.3f}") for one in unexplained),
        *(
            Finding("repeated more than its bound", window.name, f"{count} of {window.bound}")
            for window, count in repeats
            if count > window.bound
        ),
    ]
    status = {one: standing[one].status if one in standing else "nowhere" for one in owed}
    delivered = {one for one, its in arrived.items() if any(_good(arrival) for arrival in its)}
    dead = {one.webhook_id for one in books.buried}
    return Verdict(
        tuple(findings),
        accepted=len(owed),
        ended=Counter(status.values()),
        lost=len(lost),
        unanswered_delivered=len(unanswered),
        dead_though_arrived=len(dead & delivered & status.keys()),
        rows=len(books.rows),
        repeats=tuple(repeats),
        unexplained=tuple(unexplained),
    )


def _good(arrival: Arrived) -> bool:
    return 200 <= arrival.status < 300


def _ends(
    books: Books,
    owed: Mapping[str, str],
    possible: Mapping[str, str],
    standing: Mapping[str, Standing],
    arrived: Mapping[str, list[Arrived]],
) -> tuple[list[Finding], list[Finding]]:
    """Those that are lost: they came to no end, or to one that did not happen; and ends that contradict each other."""
    dead = Counter(one.webhook_id for one in books.buried)
    cancelled = {one.key.webhook_id for one in books.logged if one.kind == "cancelled" and one.reason}
    lost, wrong = [], []
    for one in dict.fromkeys((*owed, *standing)):
        row = standing.get(one)
        if row is None:
            lost.append(Finding("lost", one, "no delivery of it is known"))
        elif row.status not in ENDED:
            if one in owed or one in possible:
                lost.append(Finding("lost", one, f"still {row.status}"))
            else:
                wrong.append(Finding("never ends", one, f"still {row.status}"))
        elif row.status == "succeeded":
            if not any(_good(arrival) for arrival in arrived.get(one, ())):
                lost.append(Finding("lost", one, "succeeded, and never arrived"))
            # Of an attempt that was repeated, and answered in two ways, both ways are gone to their end.
            if dead[one] and not repeats_of(arrived.get(one, ())):
                wrong.append(Finding("succeeded and dead-lettered", one))
        elif row.status == "failed":
            if not dead[one]:
                lost.append(Finding("lost", one, "failed, and is no dead letter"))
        else:
            subscription = owed.get(one) or possible.get(one)
            if not row.reason or one not in cancelled:
                lost.append(Finding("lost", one, "cancelled, and nobody says why"))
            elif subscription is not None and subscription not in books.deleted:
                lost.append(Finding("lost", one, "cancelled, and its subscription was not deleted"))
            if dead[one]:
                wrong.append(Finding("cancelled and dead-lettered", one))
    wrong += [Finding("dead-lettered and in no table", one) for one in dead if one not in standing]
    return lost, wrong


def _strangers(
    books: Books, owed: Mapping[str, str], possible: Mapping[str, str], arrived: Mapping[str, list[Arrived]]
) -> tuple[list[Finding], set[str]]:
    """What arrived, is in the tables or in the log and was never accepted; and the ids that may be there unanswered."""
    silent = {sent.body: sent for sent in books.sent if sent.unanswered}
    unanswered: defaultdict[int, set[str]] = defaultdict(set)
    found = []
    for one, its in arrived.items():
        if one in owed or one in possible:
            continue
        if (sent := silent.get(its[0].body)) is None:
            found.append(Finding("stranger", one, f"{its[0].body[:60]!r}"))
        else:
            unanswered[sent.number].add(one)
    found += [
        Finding("stranger", max(ids), f"event {sent.number} became {len(ids)} deliveries")
        for sent in silent.values()
        if len(ids := unanswered[sent.number]) > sent.unanswered
    ]
    # Of a delivery that never arrived nobody knows the event: there can be only as many as got no answer.
    unheard = {one.webhook_id for one in books.standing} - owed.keys() - possible.keys() - arrived.keys()
    room = sum(sent.unanswered for sent in silent.values()) - sum(map(len, unanswered.values()))
    found += [Finding("stranger", one, "in the tables") for one in sorted(unheard)[max(room, 0) :]]
    return found, {one for ids in unanswered.values() for one in ids}


def _bodies(books: Books, arrived: Mapping[str, list[Arrived]]) -> list[Finding]:
    """Accepted bytes that arrived as others. What its producer was not told of is found by its body, or a stranger."""
    wanted = {one: sent.body for sent in books.sent for one in (*sent.owed, *sent.possible)}
    found = []
    for one, its in arrived.items():
        body = wanted.get(one, its[0].body)
        found += [Finding("another body", one, f"{a.body[:60]!r}") for a in its if a.body != body]
    return found


def _rows(books: Books) -> list[Finding]:
    """One row for each attempt of the log, and none for what is not there."""
    rows, logged = Counter(books.rows), {one.key for one in books.logged if one.kind == "attempt"}
    twice = Counter(one.webhook_id for one in books.standing)
    return [
        *(Finding("no row", str(key)) for key in sorted(logged - rows.keys())),
        *(Finding("more than one row", str(key), f"{count}") for key, count in rows.items() if count > 1),
        *(Finding("a row of no attempt", str(key)) for key in sorted(rows.keys() - logged)),
        *(Finding("more than one row", one, f"{count}") for one, count in twice.items() if count > 1),
    ]


def _attempts(books: Books, arrived: Mapping[str, list[Arrived]]) -> list[Finding]:
    """The log tells of every request, each attempt follows another, and a success was a request."""
    logged: defaultdict[str, set[int]] = defaultdict(set)
    succeeded = set()
    cancelled = {one.key.webhook_id for one in books.logged if one.kind == "cancelled"}
    for one in books.logged:
        if one.kind == "attempt":
            logged[one.key.webhook_id].add(one.key.attempt)
            if one.outcome == "succeeded":
                succeeded.add(one.key)
    here = {arrival.key for its in arrived.values() for arrival in its if _good(arrival)}
    found = [Finding("succeeded without a request", str(key)) for key in sorted(succeeded - here)]
    for webhook_id, its in arrived.items():
        # One that was cut off by a crash, and then cancelled, was never told of.
        if webhook_id not in cancelled:
            missing = {arrival.attempt for arrival in its} - logged[webhook_id]
            found += [Finding("a request the log does not know", str(Key(webhook_id, 1, n))) for n in sorted(missing)]
    for webhook_id, numbers in logged.items():
        if numbers and numbers != set(range(1, max(numbers) + 1)):
            found.append(Finding("attempts are missing", webhook_id, f"{sorted(numbers)}"))
    return found


def repeats_of(arrived: Iterable[Arrived]) -> list[Repeat]:
    """Each request for an attempt but the first, in the order of their times."""
    times: defaultdict[Key, list[float]] = defaultdict(list)
    for arrival in arrived:
        times[arrival.key].append(arrival.at_s)
    found = [Repeat(key, *pair) for key, its in times.items() for pair in pairwise(sorted(its))]
    return sorted(found, key=lambda repeat: repeat.at_s)


def attribute(repeats: Iterable[Repeat], windows: Sequence[Window]) -> tuple[list[tuple[Window, int]], list[Repeat]]:
    """How many repeats each window has, and those of none.

    A fault can be the reason only if it was not over when the attempt was made first, had begun when it was made again,
    and was not long over then. Of several such faults it is the first that has room within its bound: what was parked
    comes back when others have struck. When none has room it is the last that may repeat anything.
    """
    counts: Counter[int] = Counter()
    unexplained = []
    for repeat in repeats:
        possible = [n for n, window in enumerate(windows) if _may_explain(window, repeat)]
        with_room = [n for n in possible if counts[n] < windows[n].bound]
        if with_room:
            counts[min(with_room, key=lambda n: windows[n].began_s)] += 1
        elif possible:
            counts[max(possible, key=lambda n: (windows[n].bound > 0, windows[n].began_s))] += 1
        else:
            unexplained.append(repeat)
    return [(window, counts[number]) for number, window in enumerate(windows)], unexplained


def _may_explain(window: Window, repeat: Repeat) -> bool:
    return repeat.before_s <= window.ended_s and window.began_s <= repeat.at_s <= window.ended_s + window.late_s
