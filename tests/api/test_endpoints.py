"""How an endpoint does, as its subscription's answers show it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest

from ingest_api.legacy_routes import handlers_of
from ingest_api.permissions import EVERYTHING
from ingest_api.subscriptions import router
from ingest_api.target_rules import rules_of
from shared.attempt_records import Attempt, LaneState
from shared.attempt_rows import LogRow, row_of_attempt, row_of_lane
from shared.attempt_writer import AttemptWriter
from shared.clock import SystemClock, from_rfc3339, to_rfc3339
from shared.errors import StoreUnavailable
from shared.record_ids import new_webhook_id
from shared.records import Source
from shared.subscription_store import disable
from tests.api.conftest import Api

_QUIET = {
    "breaker": "closed",
    "slow": False,
    "reason": None,
    "since": None,
    "until": None,
    "failing_since": None,
    "last_success_at": None,
    "last_failure_at": None,
}


async def write(api: Api, *rows: LogRow) -> None:
    writer = AttemptWriter(api.parts.database)
    await asyncio.to_thread(writer.write_batch, rows, [])


def attempt(subscription_id: str, at_ms: int, *, ok: bool) -> LogRow:
    outcome: Any = "succeeded" if ok else "failed_attempt"
    made = Attempt("attempt", new_webhook_id(), subscription_id, 1, 1, at_ms, at_ms, outcome=outcome)
    made = replace(made, target_url="https://example.com/hook")
    return row_of_attempt(made, Source("attempts", 0, at_ms))


def lane(subscription_id: str, at_ms: int) -> LogRow:
    state = LaneState("breaker", subscription_id, "t", "open", True, at_ms, "timeouts", until_ms=at_ms + 30_000)
    row = row_of_lane(state, Source("attempts", 0, at_ms))
    assert row is not None
    return row


async def read(api: Api, subscription_id: str) -> dict[str, Any]:
    answer = await api.client.get(f"/subscriptions/{subscription_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_one_and_the_list_show_how_the_endpoint_does(api: Api) -> None:
    tenant = str(uuid.uuid4())
    one, quiet = await api.subscribe(tenant=tenant), await api.subscribe(tenant=tenant)
    now_ms = SystemClock().now_ms() + 1000
    rows = [attempt(one["id"], now_ms + later, ok=ok) for later, ok in ((0, True), (5, False), (9, False))]
    await write(api, *rows, lane(one["id"], now_ms + 10))
    expected = {
        "breaker": "open",
        "slow": True,
        "reason": "timeouts",
        "since": to_rfc3339(now_ms + 10),
        "until": to_rfc3339(now_ms + 30_010),
        "failing_since": to_rfc3339(now_ms + 5),
        "last_success_at": to_rfc3339(now_ms),
        "last_failure_at": to_rfc3339(now_ms + 9),
    }
    assert (await read(api, one["id"]))["endpoint"] == expected
    listed = (await api.client.get("/subscriptions/", params={"tenant": tenant})).json()
    assert {found["id"]: found["endpoint"] for found in listed} == {one["id"]: expected, quiet["id"]: _QUIET}
    changed = await api.client.post(f"/subscriptions/{one['id']}/pause")
    assert changed.json()["endpoint"] == expected
    rotated = await api.client.post(f"/subscriptions/{one['id']}/rotate-secret")
    assert rotated.json()["endpoint"] == expected
    assert (rotated.json()["disabled_reason"], changed.json()["disabled_reason"]) == (None, None)


async def test_a_change_starts_the_count_of_failures_anew(api: Api) -> None:
    one = await api.subscribe()
    made_ms = from_rfc3339(one["created_at"])
    await write(api, attempt(one["id"], made_ms + 1, ok=False))
    assert (await read(api, one["id"]))["endpoint"]["failing_since"] == to_rfc3339(made_ms + 1)
    changed = (await api.client.patch(f"/subscriptions/{one['id']}", json={"description": "new"})).json()
    assert changed["endpoint"]["failing_since"] is None
    assert changed["endpoint"]["last_failure_at"] == to_rfc3339(made_ms + 1)
    later_ms = from_rfc3339(changed["updated_at"]) + 10
    await write(api, attempt(one["id"], later_ms, ok=False))
    assert (await read(api, one["id"]))["endpoint"]["failing_since"] == changed["updated_at"]
    await write(api, attempt(one["id"], later_ms + 1, ok=True))
    assert (await read(api, one["id"]))["endpoint"]["failing_since"] is None


@pytest.mark.parametrize("reason", ["gone", "failing"])
async def test_a_disabled_one_says_why_until_it_is_resumed(api: Api, reason: Any) -> None:
    one = await api.subscribe()
    failed_ms = from_rfc3339(one["created_at"]) + 1
    await write(api, attempt(one["id"], failed_ms, ok=False))
    stored = api.parts.store.get(one["id"])
    assert stored is not None
    assert await asyncio.to_thread(disable, api.parts.database, one["id"], stored.version, reason, lambda _: ())
    found = await read(api, one["id"])
    assert (found["status"], found["disabled_reason"]) == ("disabled", reason)
    assert found["endpoint"]["failing_since"] == to_rfc3339(failed_ms)
    listed = (await api.client.get("/subscriptions/", params={"status": "disabled"})).json()
    assert {other["id"]: other["disabled_reason"] for other in listed}[one["id"]] == reason
    resumed = (await api.client.post(f"/subscriptions/{one['id']}/resume")).json()
    assert (resumed["status"], resumed["disabled_reason"]) == ("active", None)
    assert resumed["endpoint"]["failing_since"] is None


async def test_an_operational_type_is_listed_only_with_those_that_name_it(api: Api) -> None:
    tenant, told = str(uuid.uuid4()), "hooklog.subscription.disabled"
    await api.subscribe(tenant=tenant)
    named = [
        await api.subscribe(tenant=tenant, event_types=[one]) for one in (told, "hooklog.*", "hooklog.subscription.*")
    ]
    listed = (await api.client.get("/subscriptions/", params={"tenant": tenant, "event_type": told})).json()
    assert [one["id"] for one in listed] == [one["id"] for one in named]


async def test_a_change_is_answered_although_nobody_can_tell_how_the_endpoint_does(api: Api) -> None:
    """A rotation's answer shows its secret this once."""

    class Away:
        def of(self, _ids: object) -> Any:
            raise StoreUnavailable("away")

    one = await api.subscribe()
    handlers = handlers_of(router(api.parts.store, Away(), rules_of(api.settings), api.settings.retry_delays))
    for action in ("pause", "resume", "rotate"):
        answer = await asyncio.to_thread(handlers[action], one["id"], EVERYTHING)
        assert answer.endpoint is None
    assert answer.signing_secret.startswith("whsec_")
    with pytest.raises(StoreUnavailable):
        await asyncio.to_thread(handlers["read"], one["id"], EVERYTHING)
