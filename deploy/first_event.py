"""One signed event through the public API to the built-in receiver: proof that `make up` works; and a curl to paste."""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx

from deploy.data_dir import DataDir
from shared.errors import HooklogError
from shared.settings import Settings
from shared.signature import hub_signature

_NOTE = "first_event.json"
_SECRET_FILE = "first_event.secret"  # noqa: S105 - a file's name
_DESCRIPTION = "first steps: the built-in receiver"
_BODY = {"event_type": "hooklog.first_event", "message": "It works."}
_DELIVERED_WITHIN_S = 30.0
_LOOPBACK = ip_address("127.0.0.1")
_FINAL = ("succeeded", "failed", "cancelled")


class DemoFailed(HooklogError):
    """Why the event did not come through: one line."""


@dataclass(frozen=True, slots=True)
class Target:
    """The subscription on the built-in receiver."""

    id: str
    secret: str


def reason_to_skip(settings: Settings) -> str:
    """Why no event can be delivered to ourselves, "" when it can."""
    if not settings.dev_receiver:
        return "DEV_RECEIVER is off"
    if not any(_LOOPBACK in network for network in settings.allowed_target_networks):
        return "ALLOWED_TARGET_NETWORKS does not hold 127.0.0.1"
    return ""


async def send_first_event(base_url: str, settings: Settings, data_dir: DataDir) -> list[str]:
    """Send one, wait for its delivery; what happened, in lines. Raises DemoFailed."""
    key = settings.admin_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(base_url=base_url, headers=headers, trust_env=False, timeout=15) as api:
            target = await _subscription(api, base_url, data_dir)
            return await _send_and_follow(api, target)
    except httpx.HTTPError as error:
        raise DemoFailed(f"the API did not answer: {type(error).__name__} {error}") from error
    except (KeyError, ValueError) as error:
        raise DemoFailed(f"the API answered with something unexpected: {error!r}") from error


def curl_to_paste(base_url: str, data_dir: DataDir, settings: Settings) -> list[str]:
    """Commands for a shell: a signed event of one's own, and where its delivery shows. [] when there was no demo."""
    note = data_dir.read_note(_NOTE)
    if "id" not in note:
        return []
    sign = f"{_command('hooklog')} sign --secret-file {shlex.quote(_short(data_dir.path / _SECRET_FILE))}"
    ingest = f"{base_url}/ingest/{note['id']}"
    key = ' -H "Authorization: Bearer $ADMIN_API_KEY"' if settings.admin_api_key.get_secret_value() else ""
    return [
        """body='{"event_type":"order.created","order":42}'""",
        f"""curl -d "$body" -H 'Content-Type: application/json' -H "$(printf %s "$body" | {sign})" {ingest}""",
        # Pasted together with the others it would be asked before the attempt is in the log.
        f"sleep 1; curl{key} '{base_url}/subscriptions/{note['id']}/logs?limit=5'",
    ]


async def _subscription(api: httpx.AsyncClient, base_url: str, data_dir: DataDir) -> Target:
    """The one of an earlier start while it is there and points here, else a new one."""
    target_url, note = f"{base_url}/point1", data_dir.read_note(_NOTE)
    if "id" in note and "secret" in note:
        found = await api.get(f"/subscriptions/{note['id']}")
        if found.status_code == 200 and found.json().get("target_url") == target_url:
            return Target(note["id"], note["secret"])
        if found.status_code == 200:  # the API's port was another one
            await api.delete(f"/subscriptions/{note['id']}")
    secret = secrets.token_urlsafe(24)
    asked = {"target_url": target_url, "secret": secret, "description": _DESCRIPTION}
    created = _expect(await api.post("/subscriptions/", json=asked), 201, "creating the subscription")
    data_dir.write_note(_NOTE, {"id": created["id"], "secret": secret})
    data_dir.write_text_private(_SECRET_FILE, secret)
    return Target(created["id"], secret)


async def _send_and_follow(api: httpx.AsyncClient, target: Target) -> list[str]:
    body = json.dumps(_BODY).encode()
    signed = {"Content-Type": "application/json", "X-Hub-Signature-256": hub_signature(target.secret.encode(), body)}
    started = time.monotonic()
    answer = await api.post(f"/ingest/{target.id}", content=body, headers=signed)
    webhook_id = _expect(answer, 202, "sending the event")["webhook_id"]
    accepted_ms = (time.monotonic() - started) * 1000
    status = await _until_final(api, webhook_id, started)
    seen_ms = (time.monotonic() - started) * 1000
    last = status["attempts"][-1] if status.get("attempts") else {}
    if status["status"] != "succeeded":
        why = last.get("error_details") or last.get("http_status_code") or "no attempt was recorded"
        raise DemoFailed(f"the event {webhook_id} is {status['status']} after {seen_ms / 1000:.0f} s: {why}")
    took = f", the POST took {last['duration_ms']:.0f} ms" if last.get("duration_ms") is not None else ""
    return [
        f"event {webhook_id}",
        f"accepted (Kafka confirmed) after {accepted_ms:.0f} ms",
        f"delivered: {last.get('http_status_code')} from {last.get('target_url') or 'the receiver'}{took}",
        f"seen as succeeded in the attempt log after {seen_ms:.0f} ms",
    ]


async def _until_final(api: httpx.AsyncClient, webhook_id: str, started: float) -> dict[str, Any]:
    """Its status once it is final, or as it is when the time is up."""
    while True:
        answer = await api.get(f"/status/{webhook_id}")
        status = _expect(answer, 200, "asking for the status")
        if status["status"] in _FINAL or time.monotonic() - started > _DELIVERED_WITHIN_S:
            return status
        await asyncio.sleep(0.05)


def _expect(answer: httpx.Response, code: int, what: str) -> dict[str, Any]:
    if answer.status_code != code:
        raise DemoFailed(f"{what} was answered with {answer.status_code}: {answer.text[:200]}")
    found = answer.json()
    if not isinstance(found, dict):
        raise DemoFailed(f"{what} was answered with something that is no object")
    return found


def _command(name: str) -> str:
    return shlex.quote(_short(Path(sys.executable).with_name(name)))


def _short(path: Path) -> str:
    """Relative to where the person is, when it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
