"""What users of five earlier services find here: their documents' commands, run as they are written."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shlex
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ingest_api.legacy_shapes import Log0, Log1, Log2, Log3
from ingest_api.status_shapes import AttemptAnswer
from shared.attempt_rows import row_of_attempt
from shared.attempt_writer import AttemptWriter
from shared.record_ids import new_webhook_id
from shared.records import Source
from tests.api.conftest import Api
from tests.api.earlier_services import EXAMPLES, SECRETS, Example, keys_of
from tests.api.test_ingest import problem
from tests.api.test_status import attempt, sink  # noqa: F401 - the fixture

_NOBODY = "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2"


class Session:
    """One service's user at work: what was answered fills the braces of the next command."""

    def __init__(self, api: Api, service: str) -> None:
        self._api = api
        self._secret = SECRETS[service].encode()
        self._known: dict[str, str] = {}

    async def run(self, example: Example) -> httpx.Response:
        method, url, headers, body = _curl(example.command)
        if "{SIGNATURE}" in example.command:
            signed = json.loads(body)["body"].encode() if '"signature"' in body else body.encode()
            self._known["SIGNATURE"] = hmac.new(self._secret, signed, hashlib.sha256).hexdigest()
        headers = {name: self.filled(text) for name, text in headers.items()}
        answer = await self._api.client.request(method, self.filled(url), headers=headers, content=self.filled(body))
        await self._remember(answer)
        return answer

    def filled(self, text: str) -> str:
        for name, value in self._known.items():
            text = text.replace("{" + name + "}", value)
        return text

    async def _remember(self, answer: httpx.Response) -> None:
        told = answer.json() if answer.content and answer.status_code < 300 else {}
        if answer.status_code == 201:
            self._known["SUBSCRIPTION"] = told.get("id") or told["u_id"]
        elif answer.status_code == 202 and "webhook_id" in told:
            self._known["WEBHOOK"] = told["webhook_id"]
            await self._attempted(told)

    async def _attempted(self, accepted: dict[str, Any]) -> None:
        """As if it had been tried twice."""
        created = {"id": accepted["subscription_id"], "target_url": "https://example.com"}
        first = attempt(created, accepted["webhook_id"], 1)
        second = attempt(created, accepted["webhook_id"], 2, outcome="succeeded", http_status_code=200)
        rows = [row_of_attempt(one, Source("attempts", 0, number)) for number, one in enumerate((first, second))]
        await asyncio.to_thread(AttemptWriter(self._api.parts.database).write_batch, rows, [])


def _curl(command: str) -> tuple[str, str, dict[str, str], str]:
    """Method, URL, headers and body of a curl command line."""
    words = iter(shlex.split(command)[1:])
    method, url, headers, body = "GET", "", {}, ""
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(":")
            headers[name] = value.strip()
        elif word == "-d":
            body = next(words)
        elif word != "-v":
            url = word
    return method, url, headers, body


@pytest.mark.parametrize("service", sorted(SECRETS))
async def test_each_services_example_commands_are_answered(api: Api, service: str) -> None:
    session = Session(api, service)
    for example in [one for one in EXAMPLES if one.service == service]:
        answer = await session.run(example)
        told = f"{example.command} -> {answer.status_code} {answer.text[:300]}"
        print(_row(example, answer))
        assert answer.status_code == example.status, told
        if example.shape == "":
            assert answer.content == b"", told
            continue
        body = answer.json()
        if isinstance(example.shape, list):
            assert isinstance(body, list), told
            assert body, told
            body = body[0]
        assert body.keys() >= {session.filled(key) for key in keys_of(example.shape)}, told


def _row(example: Example, answer: httpx.Response) -> str:
    """A row of the table for people: `pytest -s` shows it."""
    command = " ".join(example.command.split())
    body = answer.json() if answer.content else {}
    keys = ", ".join(sorted(body[0] if isinstance(example.shape, list) else body))
    shown = f"[{{{keys}}}]" if isinstance(example.shape, list) else f"{{{keys}}}" if keys else "empty"
    return f"| {example.service} | `{command}` | {answer.status_code} {shown} |"


@pytest.fixture(scope="module")
async def tried(api: Api) -> dict[str, Any]:
    """A subscription with the attempts of one event: refused, out of reach, succeeded; and one that failed for good."""
    created = await api.subscribe()
    first, second = new_webhook_id(), new_webhook_id()
    made = [
        attempt(created, first, 1, http_status_code=404),
        attempt(created, first, 2, http_status_code=None, error_details="connect_failed"),
        attempt(created, first, 3, outcome="succeeded", http_status_code=200, error_details=None),
        attempt(created, second, 1, outcome="permanently_failed", http_status_code=500),
    ]
    rows = [row_of_attempt(one, Source("attempts", 0, number)) for number, one in enumerate(made)]
    await asyncio.to_thread(AttemptWriter(api.parts.database).write_batch, rows, [])
    return {**created, "webhook_id": first}


async def test_service_0_leaves_out_what_there_is_not_and_lists_the_oldest_first(
    api: Api, tried: dict[str, Any]
) -> None:
    rows = (await api.client.get(f"/status/delivery/{tried['webhook_id']}")).json()
    assert [row["attempt"] for row in rows] == [1, 2, 3]
    assert [row["outcome"] for row in rows] == ["Failed Attempt", "Failure", "Success"]
    assert rows[0].keys() >= {"status_code", "error"}
    assert "status_code" not in rows[1]
    assert "error" not in rows[2]
    of_subscription = (await api.client.get(f"/status/subscription/{tried['id']}")).json()
    times = [row["timestamp"] for row in of_subscription]
    assert (len(times), times) == (4, sorted(times))


async def test_services_1_2_and_3_have_their_own_words(api: Api, tried: dict[str, Any]) -> None:
    by_1 = (await api.client.get(f"/logs/{tried['id']}")).json()
    assert {row["status"] for row in by_1 if row["http_status"] != 200} == {"failed"}
    assert [row["status"] for row in by_1 if row["http_status"] == 200] == ["success"]
    by_2 = (await api.client.get(f"/subscriptions/{tried['id']}/deliveries")).json()
    assert {row["status"] for row in by_2} == {"Success", "Failed Attempt", "Failure"}
    by_3 = (await api.client.get("/logs/deliverylogs")).json()
    assert {row["status"] for row in by_3} == {"success", "failed"}


def test_every_outcome_has_a_word_in_every_service() -> None:
    words = {
        "succeeded": ("Success", "success", "Success", "success"),
        "failed_attempt": ("Failure", "failed", "Failed Attempt", "failed"),
        "permanently_failed": ("Failure", "failed", "Failure", "failed"),
    }
    for outcome, expected in words.items():
        made = attempt({"id": "s", "target_url": "t"}, new_webhook_id(), 1, outcome=outcome)
        logged = row_of_attempt(made, Source("attempts", 0, 0)).attempt
        assert logged is not None
        values = logged._asdict() | {"attempted_at": datetime.now(UTC), "attempt_number": 1}
        row = AttemptAnswer(**{name: values[name] for name in AttemptAnswer.model_fields})
        assert (Log0.of(row).outcome, Log1.of(row).status, Log2.of(row).status, Log3.of(row).status) == expected


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/urldata/{}", None),
        ("PUT", "/urldata/{}", {"new_url": "https://example.com"}),
        ("DELETE", "/urldata/{}", None),
        ("GET", "/status/delivery/{}", None),
        ("GET", "/status/subscription/{}", None),
        ("GET", "/logs/{}", None),
        ("GET", "/subscriptions/{}/deliveries", None),
        ("PUT", "/subscriptions/updatesubscription", {"id": "{}", "url": "https://example.com"}),
        ("DELETE", "/subscriptions/deletesubscription", {"id": "{}"}),
    ],
)
@pytest.mark.parametrize("text", [_NOBODY, "1", "x"])
async def test_ids_of_nobody_and_numbers_are_404(
    api: Api,
    sink: None,  # noqa: F811
    method: str,
    path: str,
    body: Any,
    text: str,
) -> None:
    filled = "" if body is None else json.dumps(body).replace("{}", text)
    headers = {"Content-Type": "application/json"}
    answer = await api.client.request(method, path.replace("{}", text), content=filled, headers=headers)
    problem(answer, 404, "not_found")


async def test_an_update_without_an_id_is_400_and_answers_never_hold_the_secret(api: Api) -> None:
    problem(await api.client.put("/subscriptions/updatesubscription", json={"secret": "x"}), 400, "id_missing")
    problem(await api.client.request("DELETE", "/subscriptions/deletesubscription"), 400, "id_missing")
    made = await api.client.post("/urldata/", json={"url": "https://example.com", "secret": "canary-0"})
    kept = await api.client.put(
        "/subscriptions/updatesubscription", json={"id": made.json()["u_id"], "url": "https://example.com/2"}
    )
    assert kept.json()["data"]["has_secret"] is True
    changed = {"id": made.json()["u_id"], "secret": None}
    cleared = await api.client.put("/subscriptions/updatesubscription", json=changed)
    assert cleared.json()["data"] == {**kept.json()["data"], "has_secret": False}
    assert "canary" not in made.text + kept.text + cleared.text


async def test_targets_are_vetted_here_too(api: Api) -> None:
    for path in ("/urldata/", "/subscriptions/createsubscription"):
        answer = await api.client.post(path, json={"url": "http://10.0.0.1/", "secret": "s"})
        problem(answer, 422, "target_url_refused")


@pytest.mark.parametrize("path", ["/subscriptions/{id}/deliveries", "/logs/{id}", "/status/subscription/{id}"])
async def test_nothing_tried_yet_is_an_empty_list(api: Api, path: str) -> None:
    answer = await api.client.get(path.format(**await api.subscribe()))
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ping/cleardb"),
        ("POST", f"/ingest/bypass-signature/{_NOBODY}"),
        ("POST", "/ingest/getsignature"),
    ],
)
async def test_what_is_not_offered_on_purpose_is_404(api: Api, method: str, path: str) -> None:
    problem(await api.client.request(method, path), 404, "not_found")


async def test_all_of_them_and_no_other_are_deprecated(api: Api) -> None:
    described = (await api.client.get("/openapi.json")).json()["paths"]
    operations = [(path, one) for path, item in described.items() for one in item.values()]
    deprecated = {path for path, one in operations if one.get("deprecated")}
    assert deprecated == {path for path, one in operations if "earlier services" in one["tags"]}
    assert len(deprecated) == 14
