"""Every metric of every process: its name, its unit, what it means. `/metrics` shows them all.

Children of labels are made here, once: where something is counted there is no look-up but of a dict. All count from the
start of their process; a sum over the processes is the whole. What each delivery counts is of `shared.tallies`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar, get_args

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client import generate_latest as _generate

from shared.attempt_records import AttemptOutcome, WaitReason
from shared.endpoint_states import DisabledReason
from shared.tallies import Spread, Tally

# A second series for each counter, with the time of its creation: nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]

EventResult = Literal["accepted", "filtered", "refused", "unavailable"]
LaneLabel = Literal["open", "slow"]

_Labelled = TypeVar("_Labelled", Counter, Gauge)


def _by_label(metric: _Labelled, values: Iterable[str]) -> dict[str, _Labelled]:
    """The metric's children by the value of its one label; all are shown from the start, as 0."""
    return {value: metric.labels(value) for value in values}


# ---- ingest_api ------------------------------------------------------------------------------------------------------

#: An event is accepted once Kafka has confirmed it; refused is any 4xx, unavailable any 5xx.
EVENTS = _by_label(
    Counter("hooklog_events", "Events at POST /ingest/... and POST /events, by result.", ["result"]),
    get_args(EventResult),
)
ACK_SECONDS = Histogram(
    "hooklog_ack_seconds",
    "From handing an event to the producer to Kafka's confirmation, at ingest; confirmed ones only.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

# ---- delivery_stream -------------------------------------------------------------------------------------------------

#: "failed_attempt": another follows.
ATTEMPTS = Tally(
    "hooklog_attempts",
    "Attempts whose outcome Kafka has confirmed, by outcome.",
    "outcome",
    get_args(AttemptOutcome),
)
ATTEMPT_SECONDS = Spread(
    "hooklog_attempt_duration_seconds",
    "How long an attempt took, from resolving the host to the last byte, whatever its outcome.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ATTEMPTS_IN_FLIGHT = Gauge("hooklog_attempts_in_flight", "Attempts under way.")
LANES_QUEUED = Gauge("hooklog_lanes_queued_deliveries", "Deliveries that wait in lanes, in memory.")
#: A lane may be in both: slow, and then broken.
LANES = _by_label(
    Gauge("hooklog_lanes", "Endpoints' lanes that are in this state; the others are closed and quick.", ["state"]),
    get_args(LaneLabel),
)
#: Not counted as attempts: the record goes to a tier as it is.
WAITS = _by_label(
    Counter("hooklog_waits", "Deliveries put off into a tier without an attempt, by reason.", ["reason"]),
    get_args(WaitReason),
)
DEFERRED_SECONDS = Counter("hooklog_deferred_seconds", "How long the deliveries put off were put off for, in all.")

# ---- retry_scheduler -------------------------------------------------------------------------------------------------

FORWARDED = Counter("hooklog_forwarded_records", "Records of the retry tiers that went on when they were due.")

# ---- attempt sink ----------------------------------------------------------------------------------------------------

SINK_RECORDS = Counter("hooklog_sink_records", "Records read by the sink whose rows Postgres has committed.")
SINK_LAG_SECONDS = Gauge(
    "hooklog_sink_watermark_lag_seconds",
    "How far the attempt log is behind, at the slowest partition of this sink; at rest ACK_TIMEOUT_SECONDS and 2 s.",
)
DISABLED = _by_label(
    Counter("hooklog_subscriptions_disabled", "Subscriptions disabled by what their endpoints answered.", ["reason"]),
    get_args(DisabledReason),
)

# ---- every consumer --------------------------------------------------------------------------------------------------

RECORDS_SKIPPED = Counter("hooklog_records_skipped", "Records that were gone before we read them; more than 0 is loss.")


def exposition() -> tuple[bytes, str]:
    """All of them, with the process's own, in Prometheus' text format, and its Content-Type. About 1 ms."""
    return _generate(REGISTRY), CONTENT_TYPE_LATEST
