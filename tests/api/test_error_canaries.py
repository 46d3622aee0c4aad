"""No error repeats a value that was sent: every parameter and every field of every body that the description lists."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import Api

CANARY = "canary-5f1d9c"
#: What no field can be; and what one may be, so that the next rule is asked.
_WRONG = [
    CANARY,
    CANARY * 200,
    f"http://{CANARY}@10.0.0.1/",
    f"{CANARY}\x00",
    [CANARY],
    [[CANARY]],
    {"name": CANARY},
    {"x": {"y": CANARY}},
    {"X-Header": f"{CANARY}\r\n"},
]
_GOOD: dict[str, Any] = {"target_url": "https://example.com", "url": "https://example.com", "role": "read"}


def resolved(description: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The object schemas behind a body's schema."""
    if "$ref" in schema:
        return resolved(description, description["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    inner = [one for name in ("anyOf", "oneOf", "allOf") for one in schema.get(name, [])]
    return ([schema] if "properties" in schema else []) + [
        found for one in inner for found in resolved(description, one)
    ]


def bodies(description: dict[str, Any], operation: dict[str, Any]) -> Iterator[Any]:
    """Wrong in one field each, wrong as a whole, and wrong by a field more."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return
    yield from _WRONG
    for schema in resolved(description, content["schema"]):
        good = {name: value for name, value in _GOOD.items() if name in schema["properties"]}
        yield {**good, "unknown_field": CANARY}
        for name, wrong in itertools.product(schema["properties"], _WRONG):
            yield {**good, name: wrong}


def requests(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and the rest of each request."""
    for path, item in description["paths"].items():
        for method, operation in item.items():
            given = operation.get("parameters", [])
            somewhere = path.replace("{", "").replace("}", "")
            yield method, path.replace("{", f"{CANARY}-").replace("}", ""), {}
            for parameter in (one for one in given if one["in"] == "query"):
                yield method, somewhere, {"params": {parameter["name"]: CANARY * 50}}
                yield method, somewhere, {"params": {parameter["name"]: f"{CANARY}\x00"}}
            for parameter in (one for one in given if one["in"] == "header"):
                yield method, somewhere, {"headers": {parameter["name"]: CANARY * 50}, "json": {}}
            for body in bodies(description, operation):
                yield method, somewhere, {"json": body}
            yield method, somewhere, {"content": f'{{"a": "{CANARY}', "headers": {"Content-Type": "application/json"}}
            yield method, somewhere, {"content": CANARY, "headers": {"Content-Type": CANARY}}
            yield method, somewhere, {"headers": {"Authorization": f"Bearer {CANARY}", "Host": CANARY}}
            yield method, somewhere, {"headers": {"Origin": f"https://{CANARY}"}}


async def test_no_error_holds_what_was_sent(api: Api) -> None:
    description = (await api.client.get("/openapi.json")).json()
    answers = await asyncio.gather(*(_ask(api, *one) for one in requests(description)))
    refused = [one for one in answers if one.status_code >= 400]
    assert [(str(one.request.url), one.text) for one in refused if CANARY in _whole(one)] == []
    assert {one.status_code for one in refused} >= {400, 403, 404, 415, 422}
    assert len(refused) > 500


_room = asyncio.Semaphore(16)


async def _ask(api: Api, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
    async with _room:
        answer = await api.client.request(method, path, **more)
    assert answer.status_code < 500, (method, path, more, answer.text)
    return answer


async def test_a_canary_in_an_invalid_create_does_not_come_back(api: Api) -> None:
    body = {"target_url": "ftp://example.com", "secret": [CANARY], "headers": {"Authorization": [CANARY]}}
    answer = await api.client.post("/subscriptions/", json=body)
    assert answer.status_code == 422
    assert CANARY not in _whole(answer)


def _whole(answer: httpx.Response) -> str:
    return f"{answer.headers}\n{answer.text}"


@pytest.mark.parametrize("body", [{"a": CANARY}, [CANARY]])
def test_search_finds_a_canary(body: Any) -> None:
    assert CANARY in _whole(httpx.Response(422, json=body))
    assert CANARY in _whole(httpx.Response(422, headers={"Link": CANARY}))
