"""Replace, change, pause and resume: forms, refusals, and when ingest sees them."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.api.conftest import Api
from tests.api.test_ingest import problem, signed
from tests.eventually import eventually

CANARY = "canary-51c0d"
URL = "https://example.com/other"
_JSON = {"Content-Type": "application/json"}
_CHOSEN: dict[str, Any] = {
    "secret": "first",
    "event_types": ["order.*"],
    "description": "what it is for",
    "headers": {"X-One": "1", "X-Two": "2"},
    "timeout_seconds": 5,
    "rate_limit": 2.5,
    "max_in_flight": 3,
    "retry_delays": ["1s"],
    "signature_scheme": "stripe",
}


async def _change(api: Api, method: str, subscription_id: str, body: Any) -> dict[str, Any]:
    answer = await api.client.request(method, f"/subscriptions/{subscription_id}", json=body)
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    assert (await api.client.get(f"/subscriptions/{subscription_id}")).json() == changed
    return changed


def _shown(created: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A created subscription as later answers show it."""
    kept = {name: value for name, value in created.items() if name not in ("signing_secret", "updated_at")}
    return {**kept, **changes}


async def test_a_replacement_leaves_nothing_but_the_secret_and_the_tenant(api: Api) -> None:
    created = await api.subscribe(**_CHOSEN, tenant="acme")
    replaced = await _change(api, "PUT", created["id"], {"target_url": URL})
    assert replaced.pop("updated_at") > created["updated_at"]
    assert replaced == _shown(
        created,
        target_url=URL,
        event_types=[],
        description=None,
        headers={},
        timeout_seconds=None,
        rate_limit=None,
        max_in_flight=None,
        retry_delays=None,
        signature_scheme="hub",
    )
    assert (replaced["has_secret"], replaced["tenant"]) == (True, "acme")


async def test_a_replacements_null_secret_clears_it_and_another_one_replaces_it(api: Api) -> None:
    created = await api.subscribe(secret="first")
    assert (await _change(api, "PUT", created["id"], {"target_url": URL, "secret": None}))["has_secret"] is False
    await _answered(api, created["id"], {}, 202)
    assert (await _change(api, "PUT", created["id"], {"target_url": URL, "secret": "second"}))["has_secret"] is True
    await _answered(api, created["id"], signed(b"{}", "first"), 401)
    await _answered(api, created["id"], signed(b"{}", "second"), 202)


async def _answered(api: Api, subscription_id: str, headers: dict[str, str], status: int) -> None:
    """Ingest answers so within a second, as the contract says."""
    async with asyncio.timeout(1):
        while True:
            answer = await api.client.post(f"/ingest/{subscription_id}", content=b"{}", headers=headers)
            if answer.status_code == status:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("patch", "changes"),
    [
        ({}, {}),
        ({"target_url": URL}, {"target_url": URL}),
        ({"event_types": ["a", "b.*"]}, {"event_types": ["a", "b.*"]}),
        ({"event_type": "a"}, {"event_types": ["a"]}),
        ({"event_types": None}, {"event_types": []}),
        ({"description": None}, {"description": None}),
        ({"secret": None}, {"has_secret": False}),
        ({"secret": "another"}, {}),
        (
            {"headers": {"x-one": "***", "X-Three": "3"}},
            {"headers": {"x-one": "***", "X-Two": "***", "X-Three": "***"}},
        ),
        ({"headers": {"X-ONE": None}}, {"headers": {"X-Two": "***"}}),
        ({"headers": {"X-Unknown": None}}, {}),
        ({"headers": None}, {"headers": {}}),
        ({"timeout_seconds": None}, {"timeout_seconds": None}),
        ({"rate_limit": None, "max_in_flight": 9}, {"rate_limit": None, "max_in_flight": 9}),
        ({"retry_delays": []}, {"retry_delays": []}),
        ({"signature_scheme": None}, {"signature_scheme": "hub"}),
        ({"tenant": "acme"}, {}),
        ({"tenant": None}, {}),
    ],
)
async def test_a_patch_changes_what_it_names_and_null_is_the_default(
    api: Api, patch: dict[str, Any], changes: dict[str, Any]
) -> None:
    created = await api.subscribe(**_CHOSEN, tenant="acme")
    patched = await _change(api, "PATCH", created["id"], patch)
    patched.pop("updated_at")
    assert patched == _shown(created, **changes)


async def test_headers_are_merged_by_name_and_a_masked_one_keeps_its_value(api: Api) -> None:
    created = await api.subscribe(headers={"X-One": "1", "X-Two": "2"})
    await _change(api, "PATCH", created["id"], {"headers": {"x-one": "***", "X-Two": "two"}})
    await _change(api, "PUT", created["id"], {"target_url": URL, "headers": {"X-One": "***", "X-Two": "***"}})
    stored = api.parts.store.get(created["id"])
    assert stored is not None
    assert stored.headers == (("X-One", "1"), ("X-Two", "two"))


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_an_answer_can_be_changed_and_sent_back(api: Api, method: str) -> None:
    created = await api.subscribe(
        secret="s", event_types=["a.*"], headers={"X-A": "1"}, timeout_seconds=3, retry_delays=["1s"], rate_limit=2
    )
    read = (await api.client.get(f"/subscriptions/{created['id']}")).json()
    changed = await _change(api, method, created["id"], {**read, "description": "edited"})
    assert changed.pop("updated_at") > read.pop("updated_at")
    assert changed == {**read, "description": "edited"}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("field", [{"id": "another"}, {"has_secret": True}, {"status": "paused"}, {"status": "canary"}])
async def test_what_only_an_answer_says_is_not_changed_by_saying_it(
    api: Api, method: str, field: dict[str, Any]
) -> None:
    created = await api.subscribe()
    answer = await api.client.request(method, f"/subscriptions/{created['id']}", json={"target_url": URL, **field})
    body = problem(answer, 422, "invalid_request")
    assert body["detail"] == f"{next(iter(field))} is read-only."
    assert (await api.client.get(f"/subscriptions/{created['id']}")).json()["updated_at"] == created["updated_at"]


async def test_patches_at_once_do_not_lose_each_others_fields(api: Api) -> None:
    created = await api.subscribe()
    patches = [
        {"description": "d"},
        {"timeout_seconds": 3},
        {"rate_limit": 4},
        {"max_in_flight": 5},
        {"event_types": ["a.*"]},
        *({"headers": {f"X-{number}": "v"}} for number in range(10)),
    ]
    path = f"/subscriptions/{created['id']}"
    answers = await asyncio.gather(*(api.client.patch(path, json=patch) for patch in patches))
    assert {answer.status_code for answer in answers} == {200}
    after = (await api.client.get(path)).json()
    assert [after[name] for name in ("description", "timeout_seconds", "rate_limit", "max_in_flight")] == ["d", 3, 4, 5]
    assert after["event_types"] == ["a.*"]
    assert set(after["headers"]) == {f"X-{number}" for number in range(10)}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    "fields",
    [
        {"target_url": None},
        {"target_url": ""},
        {"target_url": f"https://user:{CANARY}@example.com/"},
        {"target_url": f"http://10.0.0.1/{CANARY}"},
        {"secret": ""},
        {"secret": [CANARY]},
        {"secret": CANARY + "\ud800"},
        {"event_types": [f"{CANARY} *"]},
        {"description": f"{CANARY}\x00"},
        {"headers": {"X-A": f"{CANARY}\r\nX-B: 1"}},
        {"headers": {"Host": CANARY}},
        {"headers": {"X-A": CANARY, "x-a": CANARY}},
        {"headers": {"X-None": "***"}},
        {"headers": {f"X-{number}": CANARY for number in range(21)}},
        {"timeout_seconds": 1000},
        {"rate_limit": -1},
        {"max_in_flight": CANARY},
        {"retry_delays": ["3s"]},
        {"signature_scheme": CANARY},
        {"tenant": "another"},
        {"status": "paused"},
        {"id": CANARY},
        {"unknown": CANARY},
    ],
)
async def test_what_cannot_be_is_422_changes_nothing_and_is_never_echoed(
    api: Api, method: str, fields: dict[str, Any]
) -> None:
    created = await api.subscribe(**_CHOSEN)
    content = json.dumps({"target_url": URL, **fields}).encode()  # lone surrogates as escapes
    answer = await api.client.request(method, f"/subscriptions/{created['id']}", content=content, headers=_JSON)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    codes = ("invalid_request", "target_url_refused", "retry_delays_unknown", "tenant_fixed")
    assert answer.json()["code"] in codes
    assert CANARY not in answer.text
    unchanged = (await api.client.get(f"/subscriptions/{created['id']}")).json()
    assert unchanged == _shown(created, updated_at=created["updated_at"])


async def test_a_replacement_needs_its_target(api: Api) -> None:
    created = await api.subscribe()
    body = problem(await api.client.put(f"/subscriptions/{created['id']}", json={}), 422, "invalid_request")
    assert body["errors"] == [{"field": "target_url", "message": "Field required"}]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_pausing_and_resuming_can_be_repeated(api: Api, slash: str) -> None:
    created = await api.subscribe()
    path = f"/subscriptions/{created['id']}"
    for action, status in (("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")):
        answer = await api.client.post(f"{path}/{action}{slash}")
        assert answer.status_code == 200
        assert answer.json() == (await api.client.get(path)).json()
        assert answer.json()["status"] == status
    before = (await api.client.get(path)).json()
    assert (await api.client.post(f"{path}/resume{slash}")).json() == before


async def test_a_paused_subscriptions_events_are_still_accepted(api: Api) -> None:
    created = await api.subscribe()
    await api.client.post(f"/subscriptions/{created['id']}/pause")
    await eventually(lambda: getattr(api.parts.subscriptions.peek(created["id"]), "subscription", True))
    answer = await api.client.post(f"/ingest/{created['id']}", content=b"{}", headers=_JSON)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_changes_answer_with_and_without_a_slash(api: Api, method: str, slash: str) -> None:
    created = await api.subscribe()
    answer = await api.client.request(method, f"/subscriptions/{created['id']}{slash}", json={"target_url": URL})
    assert (answer.status_code, answer.json()["target_url"]) == (200, URL)


@pytest.mark.parametrize("text", [str(uuid.uuid4()), "x", "%00", "%ff", "%ED%A0%80", "9" * 4000])
async def test_unknown_and_malformed_ids_are_404(api: Api, text: str) -> None:
    problem(await api.client.put(f"/subscriptions/{text}", json={"target_url": URL}), 404, "not_found")
    problem(await api.client.patch(f"/subscriptions/{text}", json={"target_url": URL}), 404, "not_found")
    for action in ("pause", "resume", "rotate-secret", "test"):
        problem(await api.client.post(f"/subscriptions/{text}/{action}"), 404, "not_found")


async def test_a_deleted_subscription_cannot_be_changed(api: Api) -> None:
    created = await api.subscribe()
    path = f"/subscriptions/{created['id']}"
    await api.client.delete(path)
    problem(await api.client.patch(path, json={}), 404, "not_found")
    for action in ("pause", "resume", "rotate-secret", "test"):
        problem(await api.client.post(f"{path}/{action}"), 404, "not_found")


async def test_the_list_shows_what_is_wanted(api: Api) -> None:
    tenant = f"t-{uuid.uuid4()}"
    orders = await api.subscribe(tenant=tenant, event_types=["order.*"], target_url="https://a.example/x")
    everything = await api.subscribe(tenant=tenant, target_url="https://b.example/x")
    await api.client.post(f"/subscriptions/{everything['id']}/pause")

    async def listed(**wanted: Any) -> list[str]:
        answer = await api.client.get("/subscriptions/", params={"tenant": tenant, **wanted})
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()]

    assert await listed() == [orders["id"], everything["id"]]
    assert await listed(limit=1, skip=1) == [everything["id"]]
    assert await listed(status="paused") == [everything["id"]]
    assert await listed(event_type="order.paid") == [orders["id"], everything["id"]]
    assert await listed(event_type="user.new") == [everything["id"]]
    assert await listed(target_url="https://a.example/") == [orders["id"]]
    assert await listed(target_url="https://a.example/", status="paused") == []


@pytest.mark.parametrize("value", ["", "%00", "x" * 2049, f"{CANARY}/%00"])
@pytest.mark.parametrize("name", ["status", "tenant", "event_type", "target_url"])
async def test_a_wish_that_cannot_be_is_422(api: Api, name: str, value: str) -> None:
    answer = await api.client.get(f"/subscriptions/?{name}={value}")
    problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text


@pytest.mark.parametrize("path", ["", "/pause", "/rotate-secret", "/test"])
async def test_a_body_that_does_not_say_json_is_415(api: Api, path: str) -> None:
    created = await api.subscribe()
    method = "POST" if path else "PATCH"
    answer = await api.client.request(method, f"/subscriptions/{created['id']}{path}", content=b"{}")
    problem(answer, 415, "json_required")
