"""Health, documentation, unknown paths, and errors of every kind in one form."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ingest_api.app import create_app
from tests.api.conftest import Api
from tests.api.test_ingest import problem

_PATHS = {
    "/events": {"post"},
    "/health": {"get"},
    "/ingest/{subscription_id}": {"post"},
    "/keys/": {"get", "post"},
    "/keys/{key_id}": {"delete"},
    "/live": {"get"},
    "/logs/": {"get"},
    "/metrics": {"get"},
    "/point1": {"post"},
    "/ready": {"get"},
    "/status/{webhook_id}": {"get"},
    "/subscriptions/": {"get", "post"},
    "/subscriptions/{subscription_id}": {"get", "put", "patch", "delete"},
    "/subscriptions/{subscription_id}/pause": {"post"},
    "/subscriptions/{subscription_id}/resume": {"post"},
    "/subscriptions/{subscription_id}/rotate-secret": {"post"},
    "/subscriptions/{subscription_id}/test": {"post"},
    "/subscriptions/{subscription_id}/logs": {"get"},
    "/webhooks/{webhook_id}/payload": {"get"},
}


@pytest.mark.parametrize("path", ["/health", "/ready", "/health/", "/ready/"])
async def test_health_has_the_contracts_form(api: Api, path: str) -> None:
    answer = await api.client.get(path)
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "ok"
    assert body["checks"] == {"kafka": "ok", "postgres": "ok", "redis": "ok" if api.settings.redis_url else "off"}
    assert body["version"]


async def test_live_is_live(api: Api) -> None:
    assert (await api.client.get("/live")).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/"])
async def test_the_documentation_is_served(api: Api, path: str) -> None:
    answer = await api.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


async def test_the_root_leads_to_the_documentation(api: Api) -> None:
    answer = await api.client.get("/")
    assert answer.is_redirect
    assert answer.headers["location"] == "/docs"


@pytest.mark.parametrize("path", ["/point1", "/point1/"])
async def test_the_development_receiver_takes_everything(api: Api, path: str) -> None:
    answer = await api.client.post(path, json={"event": "e", "data": {}})
    assert (answer.status_code, answer.content) == (202, b"")
    problem(await api.client.post(path, content=b"x" * 70_000), 413, "body_too_large")


async def test_without_the_switch_there_is_no_receiver(api: Api) -> None:
    app = create_app(api.settings.model_copy(update={"dev_receiver": False}), api.parts)
    assert "/point1" not in app.openapi()["paths"]


@pytest.mark.parametrize("path", ["/no/such", "/ingest", "/status", "/ingest/a/b", "/%00", "/subscriptions//x"])
async def test_unknown_paths_are_404(api: Api, path: str) -> None:
    problem(await api.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/ingest/x", "POST"),
        ("GET", "/events/", "POST"),
        ("PUT", "/health", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
        ("PATCH", "/subscriptions/", "GET, HEAD, POST"),
        ("POST", "/subscriptions/x", "DELETE, GET, HEAD, PATCH, PUT"),
        ("PATCH", "/urldata/x/", "DELETE, GET, HEAD, PUT"),
        ("DELETE", "/subscriptions/x/pause", "POST"),
        ("HEAD", "/subscriptions/x/pause", "POST"),
    ],
)
async def test_other_methods_are_405_and_name_all_the_right_ones(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await api.client.request(method, path)
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (405, b"")
    else:
        problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


async def test_head_is_get_without_its_body(api: Api) -> None:
    created = await api.subscribe()
    for path in (
        "/",
        "/live",
        "/ready",
        "/docs",
        "/openapi.json",
        "/subscriptions/",
        f"/subscriptions/{created['id']}",
    ):
        head, got = await api.client.head(path), await api.client.get(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers["content-length"] == got.headers["content-length"], path
        assert head.headers.keys() == got.headers.keys(), path
    missing = await api.client.head("/status/x")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


async def test_an_unexpected_error_is_500_without_internals(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("canary-internal")

    monkeypatch.setattr(type(api.parts.store), "get", broken)
    with caplog.at_level(logging.ERROR):
        answer = await api.client.get("/subscriptions/0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2")
    problem(answer, 500, "internal_error")
    assert "canary" not in answer.text
    assert "canary-internal" in caplog.text


async def test_the_description_lists_every_route_and_error(api: Api) -> None:
    answer = await api.client.get("/openapi.json")
    described = answer.json()
    assert described["openapi"].startswith("3.1")
    current = {
        path: {name for name, one in item.items() if "deprecated" not in one} for path, item in _items(described)
    }
    assert {path: methods for path, methods in current.items() if methods} == _PATHS
    assert "HTTPValidationError" not in answer.text
    for item in described["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and "application/problem+json" in response.get("content", {}):
                    assert response["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    ingest = described["paths"]["/ingest/{subscription_id}"]["post"]
    assert set(ingest["responses"]) >= {"202", "400", "401", "404", "413", "415", "503"}
    assert {"X-Hub-Signature-256", "X-Event-Type", "event_type"} <= {one["name"] for one in ingest["parameters"]}


def _items(described: dict[str, Any]) -> Any:
    return described["paths"].items()


async def test_every_reference_in_the_description_leads_somewhere(api: Api) -> None:
    described = (await api.client.get("/openapi.json")).json()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [one for value in node.values() for one in references(value)]
        return [one for value in node for one in references(value)] if isinstance(node, list) else []

    for reference in references(described):
        node = described
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
