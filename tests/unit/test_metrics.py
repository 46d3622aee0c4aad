"""Every metric is declared once, described once, and shown by every process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from delivery_stream.app import Stream
from delivery_stream.breaker import FAILURES_IN_A_ROW
from delivery_stream.conclusion import WAITS_MAX, Waiting, put_off
from delivery_stream.decision import Wait
from delivery_stream.lane import Health
from delivery_stream.lanes import Lanes, Verdict
from delivery_stream.offsets import Commit, Tracker
from delivery_stream.under_way import Entry, Held
from delivery_stream.watermark import Mark, Watermarks
from deploy.program import free_port
from shared.attempt_records import AttemptOutcome
from shared.clock import SystemClock
from shared.errors import NotConfirmed
from shared.health import serve_health
from shared.kafka import Producer
from shared.metrics import DISABLED, EVENTS, exposition
from shared.records import Record
from shared.settings import Settings
from shared.skip_watch import SkipWatch
from tests.eventually import eventually
from tests.unit.examples import NOW_MS, deliver_io, delivery, subscription

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()


def shown() -> dict[str, tuple[str, set[str]]]:
    """Our metrics by the name that stands in front of their labels: kind, and values of the label."""
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(exposition()[0].decode()):
        if family.name.startswith("hooklog_"):
            assert family.documentation
            name = f"{family.name}_total" if family.type == "counter" else family.name
            values = {value for one in family.samples for label, value in one.labels.items() if label != "le"}
            found[name] = family.type, values
    return found


def value(name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(exposition()[0].decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    raise AssertionError(f"no {name} {labels}")


def test_the_page_lists_what_there_is_with_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (?:`\w+`: ([\w, ]+))? *\| (.+) \|$", PAGE, re.MULTILINE)
    written = {name: (kind, set(labels.strip().split(", ")) - {""}) for name, kind, labels, _meaning in rows}
    assert written == shown()


def test_metrics_named_elsewhere_on_the_page_exist() -> None:
    assert set(re.findall(r"\bhooklog_\w+", PAGE)) == set(shown())


def test_a_unit_or_a_plural_ends_every_name() -> None:
    for name in shown():
        assert re.search(r"(_seconds|_seconds_total|_total|s|_in_flight)$", name), name


def test_labels_are_the_words_of_the_records() -> None:
    assert shown()["hooklog_attempts_total"][1] == set(get_args(AttemptOutcome))
    assert DISABLED.keys() == {"gone", "failing"}


def test_what_is_counted_is_shown() -> None:
    before = value("hooklog_events_total", result="filtered")
    EVENTS["filtered"].inc()
    assert value("hooklog_events_total", result="filtered") == before + 1


def _put_off() -> list[float]:
    waits = [value("hooklog_waits_total", reason=reason) for reason in ("busy", "throttled", "breaker_open")]
    return [*waits, value("hooklog_deferred_seconds_total")]


async def test_put_off_deliveries_are_counted_by_reason_once_kafka_has_them_and_those_that_end_instead_are_not() -> (
    None
):
    async def confirm(_records: Sequence[Record]) -> None:
        """Kafka has them."""

    async def fail(_records: Sequence[Record]) -> None:
        raise NotConfirmed("no broker")

    waiting = [
        Waiting(delivery(), subscription(), Wait(2.5, "busy")),
        Waiting(delivery(), subscription(), Wait(0.25, "busy")),
        Waiting(delivery(), subscription(), Wait(3600.0, "throttled")),
        Waiting(delivery(waits=WAITS_MAX), subscription(), Wait(7.0, "breaker_open")),
    ]
    before = _put_off()
    with pytest.raises(NotConfirmed):
        await put_off(waiting, NOW_MS, deliver_io(fail))
    assert _put_off() == before
    await put_off(waiting, NOW_MS, deliver_io(confirm))
    assert [now - then for now, then in zip(_put_off(), before, strict=True)] == pytest.approx([2, 1, 0, 3602.75])


def _entry() -> Entry:
    return Entry.of(delivery(), 0, Held(Tracker(Commit(0, ""))))


def _ended(lanes: Lanes[Entry], endpoint: str, health: Health, count: int = 1) -> None:
    for _ in range(count):
        entry = _entry()
        lanes.start(entry, lanes.lane(endpoint, 0.0), 0.0)
        lanes.ended(entry, health, 0.1)
        lanes.confirmed()


async def test_lanes_are_shown_by_state_with_what_is_under_way_and_what_waits_in_them() -> None:
    settings, nobody = Settings(_env_file=None), cast(Any, None)
    stream = Stream(settings, producer=Producer(settings), subscriptions=nobody, sender=nobody, clock=SystemClock())
    lanes = stream.dispatcher.lanes

    def shown_now() -> list[float]:
        stream._set_gauges()
        states = [value("hooklog_lanes", state=state) for state in ("open", "slow")]
        return [*states, value("hooklog_attempts_in_flight"), value("hooklog_lanes_queued_deliveries")]

    _ended(lanes, "quick", "works")
    _ended(lanes, "slow", "times_out")
    _ended(lanes, "broken", "fails", FAILURES_IN_A_ROW)
    _ended(lanes, "both", "times_out", FAILURES_IN_A_ROW)
    assert shown_now() == [2, 2, 0, 0]
    quick = lanes.lane("quick", 0.2)
    quick.limit(None, 1, 0.2)
    lanes.start(_entry(), quick, 0.2)
    assert lanes.admit(_entry(), quick, 0.2) is Verdict.QUEUED
    assert shown_now() == [2, 2, 1, 1]
    _ended(lanes, "slow", "works")
    lanes.keep(lambda key: key != "both", 0.3)
    assert shown_now() == [1, 0, 1, 1], "one works again, one went to another worker"


async def test_skipped_records_are_counted_one_by_one() -> None:
    class Starts:
        async def beginning_offsets(self, partitions: list[object]) -> dict[object, int]:
            return dict.fromkeys(partitions, 12)

    before = value("hooklog_records_skipped_total")
    watch = SkipWatch(Starts(), "group")
    watch.assigned({("topic", 0): 5})
    watch.received(("topic", 0), 12, 13)
    assert len(await watch.alarms()) == 1
    assert value("hooklog_records_skipped_total") == before + 7


async def test_a_process_without_an_api_shows_them_on_its_health_port() -> None:
    port = free_port()
    serving = await serve_health(port, live=dict, ready=dict)

    async def asked() -> httpx.Response | None:
        try:
            async with httpx.AsyncClient() as client:
                return await client.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.ConnectError:
            return None

    answer = await eventually(asked, within_s=10)
    serving.cancel()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "hooklog_sink_records_total" in answer.text
    assert "process_cpu_seconds_total" in answer.text


def test_the_lag_is_that_of_the_slowest_partition_of_ours() -> None:
    marks = Watermarks(margin_ms=10)
    assert marks.slowest_ms() is None
    marks.assigned(("t", 0), 1000)
    marks.assigned(("t", 1), 1000)
    marks.observed(("t", 0), Mark(2000, 5))
    marks.reached(("t", 0), 5)
    assert marks.slowest_ms() == 1000
    marks.revoked(("t", 1))
    assert marks.slowest_ms() == 1990
