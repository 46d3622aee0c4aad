"""What the endpoints' states cost the attempt sink: `python -m tests.benchmarks.sink`, with DATABASE_URL set.

20,000 attempts over 200 subscriptions, in batches of 2,000 as the sink makes them, from the consumer's records to the
commit in Postgres; with and without the states, interleaved. Medians of five pairs: CPU of this process and wall time.
The last case is the worst for Postgres: endpoints that flap and attempts out of order, so that the log is asked often.
"""

from __future__ import annotations

import os
import random
import statistics
import time
import uuid
from datetime import UTC, date, datetime
from typing import Any
from unittest.mock import patch

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from delivery_stream.sink_batch import Batch
from deploy.migrate import migrate
from shared import attempt_writer
from shared.attempt_records import Attempt
from shared.attempt_writer import AttemptWriter
from shared.clock import SystemClock
from shared.database import Database
from shared.encryption import Cipher, generate_key
from shared.log_partitions import LogPartitions
from shared.record_ids import new_webhook_id
from shared.subscriptions import NewSubscription, SubscriptionStore
from shared.topics import Topics

_ATTEMPTS = 20_000
_SUBSCRIPTIONS = 200
_BATCH = 2_000
_PAIRS = 5
_TOPICS = Topics("bench.")


def main() -> None:
    url = os.environ["DATABASE_URL"].rpartition("/")[0] + f"/bench{uuid.uuid4().hex[:8]}"
    migrate(url)
    database = Database(url)
    LogPartitions(database, 90).ensure([], date.fromisoformat(datetime.now(UTC).date().isoformat()))
    store = SubscriptionStore(database, Cipher(generate_key()))
    ids = [store.create(NewSubscription("https://example.com/")).subscription.id for _ in range(_SUBSCRIPTIONS)]
    writer = AttemptWriter(database)
    for name, failing, disorder_ms in (("healthy", 0.0, 0), ("a tenth fails", 0.1, 0), ("flapping", 0.5, 10_000)):
        print(f"{name}:")
        _measure(writer, ids, failing, disorder_ms)
    database.close()


def _measure(writer: AttemptWriter, ids: list[str], failing: float, disorder_ms: int) -> None:
    with_states, without = [], []
    for _ in range(_PAIRS):
        with patch.object(attempt_writer, "endpoints_seen", lambda _rows: []):
            without.append(_run(writer, _records(ids, failing, disorder_ms)))
        with_states.append(_run(writer, _records(ids, failing, disorder_ms)))
    for name, runs in (("without", without), ("with", with_states)):
        cpu_us, wall_us = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"  {name:8} {cpu_us:5.1f} µs of CPU each, {wall_us:5.1f} µs in all")


def _run(writer: AttemptWriter, records: list[Any]) -> tuple[float, float]:
    """Microseconds of CPU and of wall time per attempt."""
    cpu_s, wall_s = time.process_time(), time.monotonic()
    for first in range(0, len(records), _BATCH):
        batch = Batch(_TOPICS)
        batch.add(TopicPartition(_TOPICS.attempts, 0), records[first : first + _BATCH])
        writer.write_batch([row for _, row in batch.rows], [])
    each = 1e6 / len(records)
    return (time.process_time() - cpu_s) * each, (time.monotonic() - wall_s) * each


def _records(ids: list[str], failing: float, disorder_ms: int) -> list[Any]:
    now_ms = SystemClock().now_ms()
    return [
        _record(random.choice(ids), n, now_ms + n - random.randint(0, disorder_ms), failing) for n in range(_ATTEMPTS)
    ]


def _record(subscription_id: str, offset: int, at_ms: int, failing: float) -> Any:
    failed = random.random() < failing
    record = Attempt(
        kind="attempt",
        webhook_id=new_webhook_id(),
        subscription_id=subscription_id,
        run=1,
        attempt=1,
        accepted_ms=at_ms - 20,
        attempted_ms=at_ms,
        event_type="order.paid",
        target_url="https://example.com/",
        outcome="failed_attempt" if failed else "succeeded",
        http_status_code=503 if failed else 200,
        error_class="http_status" if failed else None,
        duration_ms=12.5,
        timings_ms={"first_byte": 11.0},
        source="bench.deliveries:0:1",
    ).to_record(_TOPICS.attempts)
    return ConsumerRecord(
        _TOPICS.attempts, 0, offset, at_ms, 0, record.key, record.value, None, 0, len(record.value or b""), ()
    )


if __name__ == "__main__":
    main()
