"""Pure: when an endpoint's answers disable its subscription, and the event that tells of it.

The status is set and the event put into the outbox in one transaction, before the offsets are committed: nobody is told
of what did not happen, and nothing happens untold. The log rebuilt, or read again after a crash, disables nothing: an
attempt counts when it is recent and later than the subscription's last change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson

from shared.attempt_records import Disabled
from shared.attempt_rows import AttemptValues
from shared.clock import from_rfc3339, to_ms, to_rfc3339
from shared.endpoint_rows import GONE, is_failure
from shared.endpoint_states import DisabledReason, Failing
from shared.record_ids import disabling_id
from shared.records import Event, Record
from shared.target_url import parse_target
from shared.topics import Topics

SUBSCRIPTION_DISABLED = "hooklog.subscription.disabled"
#: A sink that was down for longer leaves it to the next failure.
_RECENT_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Disabling:
    """What is to be disabled, why, and the attempt that decided it."""

    failing: Failing
    reason: DisabledReason
    cause: AttemptValues

    def telling(self, topics: Topics, disabled_ms: int) -> list[Record]:
        """What `events` and `attempts` are to hold about it."""
        return [self.event(disabled_ms).to_record(topics.events), self.record(disabled_ms).to_record(topics.attempts)]

    def event(self, disabled_ms: int) -> Event:
        """For whoever of the tenant has subscribed to it. Of the URL only the origin: paths may hold secrets."""
        failing, cause = self.failing, self.cause
        data = {
            "subscription_id": failing.subscription_id,
            "description": failing.description,
            "target_origin": _origin(failing.target_url),
            "reason": self.reason,
            "since": to_rfc3339(to_ms(failing.failing_since)),
            "disabled_at": to_rfc3339(disabled_ms),
            "last_attempt": {
                "webhook_id": cause.webhook_id,
                "attempted_at": cause.attempted_at,
                "http_status_code": cause.http_status_code,
                "error_class": cause.error_class,
            },
        }
        payload = {"type": SUBSCRIPTION_DISABLED, "timestamp": to_rfc3339(disabled_ms), "data": data}
        return Event(
            id=disabling_id(failing.subscription_id, failing.version, self.reason),
            payload=orjson.dumps(payload),
            accepted_ms=disabled_ms,
            event_type=SUBSCRIPTION_DISABLED,
            content_type="application/json",
            tenant=failing.tenant,
            about=failing.subscription_id,
        )

    def record(self, disabled_ms: int) -> Disabled:
        """The same for people who look into `attempts`."""
        failing = self.failing
        return Disabled(
            kind="disabled",
            subscription_id=failing.subscription_id,
            tenant=failing.tenant,
            reason=self.reason,
            since_ms=to_ms(failing.failing_since),
            disabled_ms=disabled_ms,
            event_id=disabling_id(failing.subscription_id, failing.version, self.reason),
        )


def to_disable(
    found: Sequence[Failing], attempts: Iterable[AttemptValues], *, after_hours: float, now_ms: int
) -> Iterator[Disabling]:
    """Which of those ``found`` are to be disabled by ``attempts``, the same ones however often they are read."""
    failures: dict[str, list[AttemptValues]] = {one.subscription_id: [] for one in found}
    for attempt in attempts:
        if attempt.subscription_id in failures and is_failure(attempt) and _is_recent(attempt, now_ms):
            failures[attempt.subscription_id].append(attempt)
    for failing in found:
        recent = failures[failing.subscription_id]
        changed_ms, since_ms = to_ms(failing.updated_at), to_ms(failing.failing_since)
        enough_ms = since_ms + timedelta(hours=after_hours) // timedelta(milliseconds=1)
        gone = [one for one in recent if one.http_status_code == GONE and from_rfc3339(one.attempted_at) > changed_ms]
        late = [one for one in recent if from_rfc3339(one.attempted_at) >= enough_ms]
        if gone:
            yield Disabling(failing, "gone", min(gone, key=_when))
        elif failing.too_long and late:
            yield Disabling(failing, "failing", min(late, key=_when))


def _when(attempt: AttemptValues) -> tuple[str, str]:
    return attempt.attempted_at, attempt.id


def _is_recent(attempt: AttemptValues, now_ms: int) -> bool:
    return abs(now_ms - from_rfc3339(attempt.attempted_at)) <= _RECENT_MS


def _origin(url: str) -> str | None:
    try:
        target = parse_target(url)
    except ValueError:
        return None
    return f"{target.scheme}://{target.host_header}"
