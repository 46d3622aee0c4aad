"""Pure: what the attempts that pass by say about their endpoints, one small row per subscription.

Times are RFC 3339 text of one form (UTC, milliseconds), so that the earlier of two is the lesser text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.attempt_rows import AttemptValues, LogRow
from shared.subscription import canonical_id

#: Failures that say nothing about the endpoint: too old to be sent, and our own.
NOT_THE_ENDPOINTS = ("expired", "internal_error")
GONE = 410


class Seen(NamedTuple):
    """What some attempts say about one subscription's endpoint."""

    subscription_id: str
    last_success_at: str | None
    last_failure_at: str | None
    #: The first failure after the last success, both among these attempts.
    failing_since: str | None
    #: The last 410.
    gone_at: str | None


@dataclass(slots=True)
class _Tally:
    success: str = ""
    gone: str = ""
    failures: list[str] = field(default_factory=list)

    def seen(self, subscription_id: str) -> Seen:
        since = min((at for at in self.failures if at > self.success), default=None)
        last_failure = max(self.failures, default=None)
        return Seen(subscription_id, self.success or None, last_failure, since, self.gone or None)


def endpoints_seen(rows: Iterable[LogRow]) -> list[Seen]:
    """One for each subscription that attempts were made for, in any order of attempts; sorted by id."""
    tallies: dict[str, _Tally] = {}
    for row in rows:
        attempt = row.attempt
        if attempt is None or attempt.kind != "attempt":
            continue
        tally = tallies.get(attempt.subscription_id)
        if tally is None:
            tally = tallies[attempt.subscription_id] = _Tally()
        if attempt.outcome == "succeeded":
            tally.success = max(tally.success, attempt.attempted_at)
        elif attempt.error_class not in NOT_THE_ENDPOINTS:
            tally.failures.append(attempt.attempted_at)
            if attempt.http_status_code == GONE:
                tally.gone = max(tally.gone, attempt.attempted_at)
    return sorted(tally.seen(text_id) for text_id, tally in tallies.items() if _is_ours(text_id, tally))


def is_failure(attempt: AttemptValues) -> bool:
    """Whether its endpoint has failed, rather than we."""
    return attempt.kind == "attempt" and attempt.outcome != "succeeded" and attempt.error_class not in NOT_THE_ENDPOINTS


def _is_ours(text_id: str, tally: _Tally) -> bool:
    """Records of plain clients may carry any id; in another spelling of ours they are nobody's here."""
    return canonical_id(text_id) == text_id and bool(tally.success or tally.failures)
