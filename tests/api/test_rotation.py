"""POST /subscriptions/{id}/rotate-secret: what is shown, what overlaps, what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from shared.clock import from_rfc3339
from shared.signature import decode_signing_secret, public_key_text
from tests.api.conftest import Api
from tests.api.test_ingest import problem, signed
from tests.eventually import eventually

CANARY = "canary-e2b17"
_DAY_MS = 24 * 3600 * 1000


async def _rotate(api: Api, subscription_id: str, **body: Any) -> dict[str, Any]:
    path = f"/subscriptions/{subscription_id}/rotate-secret"
    answer = await (api.client.post(path, json=body) if body else api.client.post(path))
    assert answer.status_code == 200, answer.text
    rotated: dict[str, Any] = answer.json()
    return rotated


def _keys(api: Api, subscription_id: str, in_s: float = 0) -> tuple[bytes, ...]:
    """What signs in so many seconds."""
    subscription = api.parts.store.get(subscription_id)
    assert subscription is not None
    return subscription.signing_keys_at(int((time.time() + in_s) * 1000))


async def _accepted(api: Api, subscription_id: str, secret: str) -> bool:
    answer = await api.client.post(f"/ingest/{subscription_id}", content=b"{}", headers=signed(b"{}", secret))
    assert answer.status_code in (202, 401)
    return answer.status_code == 202


async def _wait_until_seen(api: Api, subscription_id: str) -> None:
    """Ingest's memory is what the store has; at most a second."""
    stored = api.parts.store.get(subscription_id)
    await eventually(
        lambda: getattr(api.parts.subscriptions.peek(subscription_id), "subscription", stored) == stored, within_s=1
    )


async def test_a_fresh_key_is_shown_once_and_the_old_one_signs_for_a_day(api: Api) -> None:
    created = await api.subscribe(secret="incoming")
    rotated = await _rotate(api, created["id"])
    old, new = (decode_signing_secret(one["signing_secret"]) for one in (created, rotated))
    assert old != new
    assert _keys(api, created["id"]) == (new, old)
    assert _keys(api, created["id"], 24 * 3600 - 60) == (new, old)
    assert _keys(api, created["id"], 24 * 3600 + 60) == (new,)
    expires_ms = from_rfc3339(rotated["previous_signing_secret_expires_at"])
    assert abs(expires_ms - time.time() * 1000 - _DAY_MS) < 60_000
    assert rotated["previous_secret_expires_at"] is None
    for path in ("/subscriptions/", f"/subscriptions/{created['id']}"):
        text = (await api.client.get(path)).text
        assert created["signing_secret"] not in text
        assert rotated["signing_secret"] not in text


async def test_with_v1a_both_kinds_of_key_rotate_together(api: Api) -> None:
    created = await api.subscribe(signing_versions=["v1", "v1a"])
    rotated = await _rotate(api, created["id"])
    subscription = api.parts.store.get(created["id"])
    assert subscription is not None
    shown = [created["signing_public_key"], rotated["signing_public_key"]]
    for in_s, expected in ((0, shown[::-1]), (24 * 3600 - 60, shown[::-1]), (24 * 3600 + 60, shown[1:])):
        keys = subscription.private_keys_at(int((time.time() + in_s) * 1000))
        assert [public_key_text(key) for key in keys] == expected
    assert len(_keys(api, created["id"])) == 2
    assert (await _rotate(api, created["id"], overlap_seconds=0))["signing_public_key"] not in shown
    alone = api.parts.store.get(created["id"])
    assert alone is not None
    assert len(alone.private_keys_at(0)) == 1


async def test_without_overlap_the_old_key_ends_now(api: Api) -> None:
    created = await api.subscribe()
    await _rotate(api, created["id"])
    rotated = await _rotate(api, created["id"], overlap_seconds=0)
    assert _keys(api, created["id"]) == (decode_signing_secret(rotated["signing_secret"]),)
    assert rotated["previous_signing_secret_expires_at"] is None


async def test_both_incoming_secrets_are_taken_until_the_old_one_expires(api: Api) -> None:
    created = await api.subscribe(secret="old")
    assert await _accepted(api, created["id"], "old")
    rotated = await _rotate(api, created["id"], secret="new", overlap_seconds=2)
    assert rotated["previous_secret_expires_at"] == rotated["previous_signing_secret_expires_at"]
    await _wait_until_seen(api, created["id"])
    assert await _accepted(api, created["id"], "new")
    assert await _accepted(api, created["id"], "old")
    assert not await _accepted(api, created["id"], "neither")
    expires_s = from_rfc3339(rotated["previous_secret_expires_at"]) / 1000
    await eventually(lambda: time.time() > expires_s, within_s=3)
    assert await _accepted(api, created["id"], "new")
    assert not await _accepted(api, created["id"], "old")


async def test_too_many_rotations_are_409_and_a_leak_can_still_be_ended(api: Api) -> None:
    created = await api.subscribe()
    for _ in range(5):
        await _rotate(api, created["id"])
    problem(await api.client.post(f"/subscriptions/{created['id']}/rotate-secret"), 409, "too_many_keys")
    assert decode_signing_secret(created["signing_secret"]) in _keys(api, created["id"])
    await _rotate(api, created["id"], overlap_seconds=0)
    assert len(_keys(api, created["id"])) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"overlap_seconds": -1},
        {"overlap_seconds": 7 * 24 * 3600 + 1},
        {"overlap_seconds": 10**30},
        {"overlap_seconds": "60"},
        {"overlap_seconds": 1.5},
        {"overlap_seconds": None},
        {"secret": ""},
        {"secret": [CANARY]},
        {"secret": CANARY + "\x00"},
        {"secret": CANARY + "\ud800"},
        {"secret": CANARY * 200},
        {"signing_secret": CANARY},
        [CANARY],
    ],
)
async def test_what_cannot_be_is_422_and_never_echoed(api: Api, body: Any) -> None:
    created = await api.subscribe()
    answer = await api.client.post(
        f"/subscriptions/{created['id']}/rotate-secret",
        content=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert _keys(api, created["id"]) == (decode_signing_secret(created["signing_secret"]),)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_an_empty_object_and_no_body_are_the_same(api: Api, slash: str) -> None:
    created = await api.subscribe(secret="old")
    path = f"/subscriptions/{created['id']}/rotate-secret{slash}"
    json_type = {"Content-Type": "application/json"}
    given: list[dict[str, Any]] = [{"json": {}}, {}, {"content": b"null", "headers": json_type}]
    for options in given:
        answer = await api.client.post(path, **options)
        assert (answer.status_code, answer.json()["has_secret"]) == (200, True)
