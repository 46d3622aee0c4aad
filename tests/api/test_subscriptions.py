"""Create, list, read, delete: forms, refusals, and what is never shown."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
from sqlalchemy import text

from ingest_api.subscription_shapes import CreateSubscription
from shared.clock import from_rfc3339
from shared.signature import decode_signing_secret
from tests.api.conftest import Api
from tests.api.test_ingest import problem
from tests.canaries import forms

CANARY = "canary-7f3a9"
URL = "https://example.com/hook"


async def test_the_answer_to_a_creation_has_the_contracts_form(api: Api) -> None:
    answer = await api.client.post("/subscriptions/", json={"target_url": URL})
    assert answer.status_code == 201
    created = answer.json()
    decode_signing_secret(created.pop("signing_secret"))
    assert str(uuid.UUID(created.pop("id")))
    assert from_rfc3339(created["created_at"]) == from_rfc3339(created["updated_at"])
    assert created.pop("created_at").endswith("Z")
    assert created.pop("updated_at").endswith("Z")
    assert created == {
        "target_url": URL,
        "event_types": [],
        "has_secret": False,
        "status": "active",
        "parked": 0,
        "description": None,
        "tenant": "default",
        "headers": {},
        "signing_versions": ["v1"],
        "signing_public_key": None,
        "signature_scheme": "hub",
        "timeout_seconds": None,
        "rate_limit": None,
        "max_in_flight": None,
        "retry_delays": None,
        "disabled_reason": None,
        "endpoint": {
            "breaker": "closed",
            "slow": False,
            "reason": None,
            "since": None,
            "until": None,
            "failing_since": None,
            "last_success_at": None,
            "last_failure_at": None,
        },
    }


async def test_null_is_as_good_as_left_out(api: Api) -> None:
    names = CreateSubscription.model_fields.keys() - {"target_url"}
    plain, nulls = await api.subscribe(), await api.subscribe(**dict.fromkeys(names))
    own = ("id", "signing_secret", "created_at", "updated_at")
    assert {**nulls, **{name: plain[name] for name in own}} == plain


async def test_everything_that_can_be_chosen_is_kept(api: Api) -> None:
    created = await api.subscribe(
        secret="s3cret",
        event_types=["order.*", "user.created"],
        event_type="invoice.paid",
        description="Ünïcode",
        tenant="acme",
        headers={"Authorization": f"Bearer {CANARY}"},
        timeout_seconds=5,
        retry_delays=["2s", 1],
        rate_limit=0.5,
        max_in_flight=7,
        signature_scheme="stripe",
    )
    read = (await api.client.get(f"/subscriptions/{created['id']}")).json()
    assert {**read, "signing_secret": created["signing_secret"]} == created
    assert read["event_types"] == ["order.*", "user.created", "invoice.paid"]
    assert read["has_secret"] is True
    assert read["description"] == "Ünïcode"
    assert read["tenant"] == "acme"
    assert read["headers"] == {"Authorization": "***"}
    assert read["timeout_seconds"] == 5
    assert (read["rate_limit"], read["max_in_flight"], read["signature_scheme"]) == (0.5, 7, "stripe")
    assert read["retry_delays"] == ["2s", "1s"]


async def test_v1a_is_asked_for_and_its_public_key_can_be_read(api: Api) -> None:
    created = await api.subscribe(signing_versions=["v1a", "v1"])
    assert created["signing_versions"] == ["v1", "v1a"]
    assert len(base64.b64decode(created["signing_public_key"].removeprefix("whpk_"))) == 32
    read = (await api.client.get(f"/subscriptions/{created['id']}")).json()
    assert read["signing_public_key"] == created["signing_public_key"]
    with api.parts.database.transaction() as connection:
        stored = str(connection.execute(text("select t::text from subscriptions t")).all())
    subscription = api.parts.store.get(created["id"])
    assert subscription is not None
    [private_key] = subscription.private_keys_at(0)
    assert not any(form.decode() in stored for form in forms(private_key) if form != private_key)
    assert repr(private_key) not in repr(subscription)


async def test_v1a_given_up_and_asked_for_again_has_the_key_it_had(api: Api) -> None:
    """Receivers keep a public key for long: a PUT that forgot the field must not cost them theirs."""
    created = await api.subscribe(signing_versions=["v1a"])
    path = f"/subscriptions/{created['id']}"
    without = (await api.client.put(path, json={"target_url": URL})).json()
    assert (without["signing_versions"], without["signing_public_key"]) == (["v1"], None)
    again = (await api.client.patch(path, json={"signing_versions": ["v1", "v1a"]})).json()
    assert again["signing_public_key"] == created["signing_public_key"]
    default = (await api.client.patch(path, json={"signing_versions": None})).json()
    assert default["signing_versions"] == ["v1"]


async def test_an_answer_with_a_public_key_can_be_sent_back_and_another_key_cannot(api: Api) -> None:
    created = await api.subscribe(signing_versions=["v1", "v1a"])
    path = f"/subscriptions/{created['id']}"
    read = (await api.client.get(path)).json()
    for method in ("PUT", "PATCH"):
        assert (await api.client.request(method, path, json=read)).json() == read
        answer = await api.client.request(method, path, json={**read, "signing_public_key": "whpk_another"})
        problem(answer, 422, "invalid_request")


async def test_v1a_can_be_asked_for_later(api: Api) -> None:
    created = await api.subscribe()
    changed = (await api.client.patch(f"/subscriptions/{created['id']}", json={"signing_versions": ["v1a"]})).json()
    assert changed["signing_public_key"].startswith("whpk_")


async def test_secrets_come_back_in_no_answer(api: Api) -> None:
    created = await api.subscribe(secret=CANARY, headers={"X-Api-Key": CANARY})
    assert CANARY not in str(created)
    for path in ("/subscriptions/", f"/subscriptions/{created['id']}", f"/subscriptions/{created['id']}/logs"):
        answer = await api.client.get(path)
        assert answer.status_code == 200
        assert CANARY not in answer.text
        assert created["signing_secret"] not in answer.text


@pytest.mark.parametrize("secret", [None, "absent"])
async def test_a_null_or_absent_secret_is_none(api: Api, secret: str | None) -> None:
    created = await api.subscribe(**({"secret": None} if secret is None else {}))
    assert created["has_secret"] is False
    assert (await api.client.post(f"/ingest/{created['id']}", content=b"x")).status_code == 202


@pytest.mark.parametrize(
    "fields",
    [
        {"target_url": None},
        {"target_url": 7},
        {"target_url": ""},
        {"target_url": "not a url"},
        {"target_url": f"ftp://example.com/{CANARY}"},
        {"target_url": f"https://user:{CANARY}@example.com/"},
        {"target_url": f"http://10.0.0.1/{CANARY}"},
        {"target_url": f"http://169.254.169.254/{CANARY}"},
        {"target_url": "http://0177.0.0.1/"},
        {"target_url": "https://example.com/" + "x" * 3000},
        {"target_url": "https://example.com/\ud800"},
        {"secret": ""},
        {"secret": 5},
        {"secret": [CANARY]},
        {"secret": CANARY + "\x00"},
        {"secret": CANARY + "\ud800"},
        {"secret": CANARY * 200},
        {"event_types": f"{CANARY}"},
        {"event_types": [f"{CANARY} *"]},
        {"event_types": ["*"]},
        {"event_types": [""]},
        {"event_types": ["a\nb"]},
        {"event_types": ["x"] * 101},
        {"description": f"{CANARY}\x00"},
        {"description": "x" * 501},
        {"tenant": f"{CANARY}/"},
        {"tenant": ""},
        {"headers": {"Host": CANARY}},
        {"headers": {"Connection": CANARY}},
        {"headers": {"Transfer-Encoding": CANARY}},
        {"headers": {"content-length": CANARY}},
        {"headers": {"webhook-id": CANARY}},
        {"headers": {"Webhook-Anything": CANARY}},
        {"headers": {"Content-Type": CANARY}},
        {"headers": {"Keep-Alive": CANARY}},
        {"headers": {"Proxy-Authorization": CANARY}},
        {"headers": {"TE": CANARY}},
        {"headers": {"Trailer": CANARY}},
        {"headers": {"Upgrade": CANARY}},
        {"headers": {"X-Hooklog-Hops": CANARY}},
        {"headers": {"X-A": f"{CANARY}\r\nX-B: 1"}},
        {"headers": {"X-A\r\nX-B": CANARY}},
        {"headers": {"X A": CANARY}},
        {"headers": {"X-A": CANARY, "x-a": CANARY}},
        {"headers": {"X-A": 5}},
        {"headers": {f"X-{number}": CANARY for number in range(21)}},
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"timeout_seconds": 1000},
        {"timeout_seconds": "5"},
        {"retry_delays": ["3s"]},
        {"retry_delays": [CANARY]},
        {"retry_delays": [-1]},
        {"retry_delays": [1.5]},
        {"retry_delays": "1s"},
        {"rate_limit": CANARY},
        {"rate_limit": 0},
        {"rate_limit": 1e9},
        {"rate_limit": True},
        {"max_in_flight": 0},
        {"max_in_flight": 1001},
        {"max_in_flight": 1.5},
        {"signature_scheme": CANARY},
        {"signing_versions": []},
        {"signing_versions": [CANARY]},
        {"signing_versions": ["v1", "v1"]},
        {"signing_versions": "v1a"},
        {"signature_scheme": "HUB"},
        {"unknown": CANARY},
    ],
)
async def test_what_cannot_be_is_422_and_never_echoed(api: Api, fields: dict[str, Any]) -> None:
    """The canary stands wherever a value can stand; no answer may bring it back."""
    answer = await api.client.post("/subscriptions/", content=_ascii_json({"target_url": URL, **fields}), headers=_JSON)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] in ("invalid_request", "target_url_refused", "retry_delays_unknown")
    assert next(iter(fields)) in body["detail"] or body["errors"]
    assert CANARY not in answer.text


async def test_a_missing_target_url_is_named(api: Api) -> None:
    body = problem(await api.client.post("/subscriptions/", json={}), 422, "invalid_request")
    assert "target_url" in body["detail"]
    assert body["errors"] == [{"field": "target_url", "message": "Field required"}]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'"text"', b"7"])
async def test_a_body_that_is_no_object_is_422(api: Api, content: bytes) -> None:
    problem(await api.client.post("/subscriptions/", content=content, headers=_JSON), 422, "invalid_request")


@pytest.mark.parametrize(
    "content", [b"{", b"{'a': 1}", b"\xff\xfe", b"[" * 20000, b'{"target_url": 1' + b"0" * 5000 + b"}"]
)
async def test_a_body_that_is_no_json_is_400(api: Api, content: bytes) -> None:
    answer = await api.client.post("/subscriptions/", content=content, headers=_JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in ("malformed_json", "malformed_body")


async def test_a_body_that_does_not_say_json_is_415(api: Api) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = await api.client.post("/subscriptions/", content=b'{"target_url": "x"}', headers=headers)
        problem(answer, 415, "json_required")


async def test_a_management_body_is_bounded(api: Api) -> None:
    large = b'{"target_url": "' + b"x" * 200_000 + b'"}'
    problem(await api.client.post("/subscriptions/", content=large, headers=_JSON), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/subscriptions", "/subscriptions/"])
async def test_the_list_is_bounded_pages_and_holds_what_was_created(api: Api, path: str) -> None:
    created = [(await api.subscribe())["id"] for _ in range(3)]
    everything: list[str] = []
    while page := (await api.client.get(path, params={"skip": len(everything), "limit": 7})).json():
        assert len(page) <= 7
        everything += [one["id"] for one in page]
    assert len(set(everything)) == len(everything)
    assert set(created) <= set(everything)
    assert (await api.client.get(path, params={"skip": 100_000})).json() == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "skip=-1", "skip=9999999999999999999999", "limit="]
)
async def test_a_page_that_cannot_be_is_422(api: Api, query: str) -> None:
    problem(await api.client.get(f"/subscriptions/?{query}"), 422, "invalid_request")


@pytest.mark.parametrize("text", [str(uuid.uuid4()), "x", "%00", "%ff", "%ED%A0%80", "9" * 4000])
async def test_unknown_and_malformed_ids_are_404(api: Api, text: str) -> None:
    problem(await api.client.get(f"/subscriptions/{text}"), 404, "not_found")
    problem(await api.client.get(f"/subscriptions/{text}/logs"), 404, "not_found")
    problem(await api.client.delete(f"/subscriptions/{text}"), 404, "not_found")


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_deletion_is_204_and_then_404(api: Api, slash: str) -> None:
    created = await api.subscribe()
    answer = await api.client.delete(f"/subscriptions/{created['id']}{slash}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(await api.client.delete(f"/subscriptions/{created['id']}"), 404, "not_found")
    problem(await api.client.get(f"/subscriptions/{created['id']}{slash}"), 404, "not_found")


async def test_the_stacks_own_ports_are_no_targets(api: Api) -> None:
    port = api.settings.kafka_bootstrap_servers.rpartition(":")[2]
    answer = await api.client.post("/subscriptions/", json={"target_url": f"http://127.0.0.1:{port}/"})
    problem(answer, 422, "target_url_refused")


_JSON = {"Content-Type": "application/json"}


def _ascii_json(value: Any) -> bytes:
    """With lone surrogates as escapes, which is how they come over the wire."""
    import json

    return json.dumps(value).encode()
