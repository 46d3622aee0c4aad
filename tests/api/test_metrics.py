"""What the API counts, and who may see it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Api
from tests.api.test_ingest import problem

JSON = {"Content-Type": "application/json"}


async def counted(api: Api, name: str) -> dict[str, float]:
    """The values of a metric, by the one label it has, or by nothing."""
    answer = await api.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = [one for family in text_string_to_metric_families(answer.text) for one in family.samples]
    return {next(iter(one.labels.values()), ""): one.value for one in samples if one.name == name}


async def test_events_are_counted_by_what_became_of_them(api: Api) -> None:
    plain, picky = await api.subscribe(), await api.subscribe(event_types=["order.*"])
    events, acks = await counted(api, "hooklog_events_total"), await counted(api, "hooklog_ack_seconds_count")
    for _ in range(3):
        answer = await api.client.post(f"/ingest/{plain['id']}", json={})
        assert answer.json()["status"] == "accepted"
    await api.client.post("/events", json={"event_type": "order.paid", "payload": {}})
    answer = await api.client.post(f"/ingest/{picky['id']}", json={"type": "user.created"})
    assert answer.json()["status"] == "filtered"
    problem(await api.client.post(f"/ingest/{plain['id']}", content=b"{", headers=JSON), 400, "malformed_json")
    problem(await api.client.post("/events", content=b"", headers=JSON), 400, "malformed_json")
    after = await counted(api, "hooklog_events_total")
    assert {result: after[result] - events[result] for result in after} == {
        "accepted": 4,
        "filtered": 1,
        "refused": 2,
        "unavailable": 0,
    }
    assert (await counted(api, "hooklog_ack_seconds_count"))[""] - acks[""] == 4


async def test_a_repeat_under_a_known_key_is_no_other_event(api: Api) -> None:
    one = await api.subscribe()
    before = (await counted(api, "hooklog_events_total"))["accepted"]
    ids = set()
    for _ in range(2):
        answer = await api.client.post(f"/ingest/{one['id']}", json={}, headers={"Idempotency-Key": one["id"]})
        ids.add(answer.json()["webhook_id"])
    assert len(ids) == 1
    assert (await counted(api, "hooklog_events_total"))["accepted"] - before == 1
