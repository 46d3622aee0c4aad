"""Pages and filters of the log routes, over rows written as the sink writes them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import fields
from typing import Any

import httpx
import pytest

from shared.attempt_records import Attempt
from shared.attempt_rows import row_of_attempt
from shared.attempt_writer import AttemptWriter
from shared.clock import to_rfc3339
from shared.record_ids import new_webhook_id
from shared.records import Source
from tests.api.conftest import Api
from tests.api.test_ingest import problem

#: 2026-01-01T00:00:00Z and one second more for each attempt.
_BEGAN_MS = 1_767_225_600_000


def attempts(created: dict[str, Any], count: int, **more: Any) -> list[Attempt]:
    """One attempt each of so many events, a second apart."""
    values: dict[str, Any] = {"outcome": "succeeded", "http_status_code": 200, "event_type": "order.paid"} | more
    now_ms = time.time_ns() // 1_000_000
    return [
        Attempt(
            kind="attempt",
            webhook_id=new_webhook_id(),
            subscription_id=created["id"],
            run=1,
            attempt=1,
            accepted_ms=now_ms,
            attempted_ms=_BEGAN_MS + 1000 * number,
            target_url=created["target_url"],
            **values,
        )
        for number in range(count)
    ]


async def write(api: Api, *made: Attempt) -> None:
    rows = [row_of_attempt(one, Source("attempts", 0, number)) for number, one in enumerate(made)]
    await asyncio.to_thread(AttemptWriter(api.parts.database).write_batch, rows, [])


@pytest.fixture(scope="module")
async def subscription(api: Api) -> dict[str, Any]:
    """With 7 attempts that succeeded and 3 later ones that failed for good."""
    created = await api.subscribe()
    failed = attempts(created, 3, outcome="permanently_failed", http_status_code=500, event_type="order.lost")
    later = [Attempt(**{**_fields(one), "attempted_ms": one.attempted_ms + 3_600_000}) for one in failed]
    await write(api, *attempts(created, 7), *later)
    return created


def _fields(one: Attempt) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(one)}


async def pages(api: Api, url: str) -> list[list[dict[str, Any]]]:
    """Every page from ``url`` on, by its Link headers."""
    found, answer = [], await api.client.get(url)
    while True:
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        if "next" not in answer.links:
            return found
        answer = await api.client.get(answer.links["next"]["url"])


@pytest.mark.parametrize("path", ["/logs/", "/logs", "/subscriptions/{id}/logs"])
async def test_pages_hold_every_row_once_newest_first_whatever_comes_in_meanwhile(
    api: Api, subscription: dict[str, Any], path: str
) -> None:
    url = f"{path.format(**subscription)}?limit=3&subscription_id={subscription['id']}"
    first = await api.client.get(url)
    whole = await pages(api, url)
    assert [len(page) for page in whole] == [3, 3, 3, 1]
    rows = [row for page in whole for row in page]
    assert [row["attempted_at"] for row in rows] == sorted((row["attempted_at"] for row in rows), reverse=True)
    assert len({row["id"] for row in rows}) == 10
    [newcomer] = attempts(subscription, 1)
    await write(api, Attempt(**{**_fields(newcomer), "subscription_id": new_webhook_id(), "attempted_ms": 2**41}))
    assert (await api.client.get(first.links["next"]["url"])).json() == rows[3:6]


async def test_a_full_last_page_has_no_link(api: Api, subscription: dict[str, Any]) -> None:
    answer = await api.client.get(f"/subscriptions/{subscription['id']}/logs?limit=10")
    assert len(answer.json()) == 10
    assert "link" not in answer.headers


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("outcome=succeeded", 7),
        ("outcome=failed_attempt", 0),
        ("outcome=permanently_failed", 3),
        ("status=failed", 3),
        ("status=queued", 0),
        ("http_status_code=500", 3),
        ("event_type=order.paid", 7),
        ("event_type=order.*", 0),
        (f"since={to_rfc3339(_BEGAN_MS + 5000)}", 5),
        (f"until={to_rfc3339(_BEGAN_MS + 5000)}", 5),
        (f"since={to_rfc3339(_BEGAN_MS)}&until={to_rfc3339(_BEGAN_MS + 1000)}", 1),
        ("since=2026-01-01T02:00:00+02:00&until=2026-01-01T00:00:01Z", 1),
        ("event_type=order.paid&outcome=permanently_failed", 0),
    ],
)
async def test_filters_join(api: Api, subscription: dict[str, Any], query: str, count: int) -> None:
    for url in (f"/subscriptions/{subscription['id']}/logs?", f"/logs/?subscription_id={subscription['id']}&"):
        answer = await api.client.get(url + query)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()) == count


async def test_skip_passes_over_the_newest(api: Api, subscription: dict[str, Any]) -> None:
    def ask(query: str) -> Any:
        return api.client.get(f"/logs/?subscription_id={subscription['id'].upper()}&{query}")

    rows = (await ask("limit=10")).json()
    assert (await ask("skip=2&limit=3")).json() == rows[2:5]
    assert (await ask("skip=10000")).json() == []


async def test_log_rows_have_the_contracts_fields(api: Api, subscription: dict[str, Any]) -> None:
    [row] = (await api.client.get(f"/logs/?subscription_id={subscription['id']}&limit=1")).json()
    named = {"id", "webhook_id", "subscription_id", "target_url", "attempt_number", "attempted_at", "outcome"}
    assert row.keys() >= named | {"http_status_code", "error_details"}


@pytest.mark.parametrize("path", ["/logs/", "/subscriptions/{id}/logs"])
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=x",
        "cursor=" + "!" * 32,
        "outcome=won",
        "status=gone",
        "http_status_code=1",
        "event_type=%00",
        "event_type=" + "x" * 1025,
        "since=yesterday",
        "since=1700000000",
        "until=2026-01-01",
        "until=2026-01-01T00:00:00",
        "since=0001-01-01T00:00:00%2B23:59",
    ],
)
async def test_what_cannot_be_asked_is_422(api: Api, subscription: dict[str, Any], path: str, query: str) -> None:
    problem(await api.client.get(f"{path.format(**subscription)}?{query}"), 422, "invalid_request")


@pytest.mark.parametrize("query", ["skip=-1", "skip=10001", "skip=x", "subscription_id=%00"])
async def test_what_cannot_be_asked_of_all_logs_is_422(api: Api, query: str) -> None:
    problem(await api.client.get(f"/logs?{query}"), 422, "invalid_request")


async def test_a_cursor_nobody_gave_is_422(api: Api, subscription: dict[str, Any]) -> None:
    problem(await api.client.get(f"/logs/?cursor=f{'_' * 31}"), 422, "cursor_unusable")
    link = (await api.client.get("/logs/?limit=1")).links["next"]["url"]
    problem(await api.client.get(f"{link}&skip=1"), 422, "skip_and_cursor")


async def test_logs_of_nobody_are_404(api: Api) -> None:
    problem(await api.client.get(f"/subscriptions/{new_webhook_id()}/logs"), 404, "not_found")
    assert (await api.client.get(f"/logs/?subscription_id={new_webhook_id()}")).json() == []


async def test_links_never_repeat_a_foreign_host(api: Api, subscription: dict[str, Any]) -> None:
    headers = {"Host": f"localhost:{api.port}"}
    answer: httpx.Response = await api.client.get("/logs/?limit=1&outcome=succeeded", headers=headers)
    assert answer.links["next"]["url"].startswith("/logs?limit=1&outcome=succeeded&cursor=")
