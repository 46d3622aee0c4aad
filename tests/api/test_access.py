"""Who may ask: with keys, and without them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from shared.bind_address import check_bind_address
from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.api.conftest import Api, running_api
from tests.api.test_ingest import SECRET, problem, signed

KEY = "an-admin-key"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
async def locked(api_settings: Settings) -> AsyncIterator[Api]:
    """The same stores, with ADMIN_API_KEY."""
    async with running_api(api_settings.model_copy(update={"admin_api_key": SecretStr(KEY)})) as running:
        yield running


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/docs", "/redoc", "/openapi.json", "/docs/"])
async def test_the_open_paths_need_no_key(locked: Api, path: str) -> None:
    assert (await locked.client.get(path)).status_code in (200, 503)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/subscriptions/"),
        ("POST", "/subscriptions"),
        ("GET", "/subscriptions/x"),
        ("PUT", "/subscriptions/x"),
        ("PATCH", "/subscriptions/x"),
        ("DELETE", "/subscriptions/x"),
        ("POST", "/subscriptions/x/pause"),
        ("POST", "/subscriptions/x/resume"),
        ("POST", "/subscriptions/x/rotate-secret"),
        ("POST", "/subscriptions/x/test"),
        ("GET", "/subscriptions/x/logs"),
        ("GET", "/status/x"),
        ("GET", "/no/such/route"),
    ],
)
async def test_everything_else_needs_the_key(locked: Api, method: str, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": "Basic x"},
    ):
        answer = await locked.client.request(method, path, headers=headers)
        problem(answer, 401, "key_required")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await locked.client.request(method, path, headers=BEARER)).status_code != 401


async def test_signed_ingest_needs_no_key_and_unsigned_does(api: Api, locked: Api) -> None:
    with_secret, without = await api.subscribe(secret=SECRET), await api.subscribe()
    body = b"{}"
    assert (
        await locked.client.post(f"/ingest/{with_secret['id']}", content=body, headers=signed(body))
    ).status_code == 202
    refused = await locked.client.post(f"/ingest/{with_secret['id']}", content=body, headers=BEARER)
    problem(refused, 401, "signature_invalid")
    problem(await locked.client.post(f"/ingest/{without['id']}", content=body), 401, "key_required")
    assert (await locked.client.post(f"/ingest/{without['id']}", content=body, headers=BEARER)).status_code == 202


async def test_the_summary_of_health_shows_nothing_but_the_status(locked: Api) -> None:
    assert (await locked.client.get("/health")).json().keys() == {"status"}
    assert (await locked.client.get("/ready")).json().keys() == {"status"}
    assert (await locked.client.get("/health", headers=BEARER)).json().keys() >= {"status", "checks", "version"}


async def test_with_keys_host_and_origin_are_free(locked: Api) -> None:
    headers = {**BEARER, "Host": "hooks.example.com", "Origin": "https://evil.example"}
    assert (await locked.client.get("/subscriptions/", headers=headers)).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]", "[::1]:80"])
async def test_without_keys_loopbacks_names_are_hosts(api: Api, host: str) -> None:
    assert (await api.client.get("/live", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["example.com", "localhost.evil.com", "127.0.0.1.evil.com", "evil@localhost", "", "[::1", "localhost:x", "\xff"],
)
@pytest.mark.parametrize("path", ["/subscriptions/", "/ingest/x", "/live"])
async def test_without_keys_other_hosts_are_refused(api: Api, host: str, path: str) -> None:
    answer = await api.client.get(path, headers=[(b"Host", host.encode("latin-1"))])
    problem(answer, 403, "host_refused")


async def test_without_keys_two_hosts_or_origins_are_refused_whichever_comes_first(api: Api) -> None:
    own = f"127.0.0.1:{api.port}"
    for hosts in ((own, "evil.example"), ("evil.example", own), (own, own), ()):
        sent = "".join(f"Host: {host}\r\n" for host in hosts)
        answer = await api.raw(f"GET /live HTTP/1.1\r\n{sent}Connection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 "), hosts
        assert b"host_refused" in answer
    for origins in ((f"http://{own}", "https://evil.example"), ("https://evil.example", f"http://{own}")):
        sent_twice = [("Origin", origin) for origin in origins]
        problem(await api.client.get("/live", headers=sent_twice), 403, "origin_refused")


async def test_without_keys_a_foreign_origin_is_refused(api: Api) -> None:
    created = await api.subscribe()
    for origin in ("https://evil.example", "null", "http://localhost:1", f"http://evil.example:{api.port}"):
        for path in ("/subscriptions/", f"/ingest/{created['id']}"):
            answer = await api.client.post(path, headers={"Origin": origin}, json={})
            problem(answer, 403, "origin_refused")
    own = await api.client.get("/subscriptions/", headers={"Origin": f"http://127.0.0.1:{api.port}"})
    assert own.status_code == 200


async def test_loops_end_on_every_route(api: Api) -> None:
    problem(await api.client.post("/point1", content=b"x", headers={"X-Hooklog-Hops": "3"}), 403, "loop_detected")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "hooks.example.com"])
def test_a_bind_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigurationError, match="ADMIN_API_KEY"):
        check_bind_address(Settings(_env_file=None, api_host=host))
    check_bind_address(Settings(_env_file=None, api_host=host, admin_api_key=SecretStr("k")))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    check_bind_address(Settings(_env_file=None, api_host=host))
