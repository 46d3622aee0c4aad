"""API keys, roles and what a route declares: nothing running."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import cast, get_args
from unittest.mock import Mock

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from cli.api import Api
from ingest_api.app import create_app
from ingest_api.parts import Parts
from ingest_api.permissions import EVERYTHING, ROLES, Caller, Manager, declared, plain, requires
from ingest_api.problems import Problem
from shared.api_keys import ApiKey, CreatedKey, Role, generate_key, is_key, key_hash, shown
from shared.errors import ConfigurationError
from shared.settings import Settings


def test_keys_have_one_form_and_256_random_bits() -> None:
    keys = {generate_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(is_key(key.encode()) and len(key) == 3 + 43 for key in keys)
    assert {shown(key)[:3] for key in keys} == {"hk_"}
    assert {len(shown(key)) for key in keys} == {8}


@pytest.mark.parametrize(
    "text", [b"", b"hk_", b"hk_" + b"a" * 42, b"hk_" + b"a" * 44, b"xk_" + b"a" * 43, b"\xff" * 46]
)
def test_what_is_no_key_is_seen_by_its_form(text: bytes) -> None:
    assert not is_key(text)


def test_what_is_stored_is_sha256() -> None:
    assert key_hash(b"hk_x") == hashlib.sha256(b"hk_x").digest()


def test_no_repr_shows_a_key() -> None:
    key = generate_key()
    api_key = ApiKey("id", "name", shown(key), "read", None, datetime.now(UTC))
    assert key not in repr(CreatedKey(api_key, key))
    assert key not in repr(Api("http://127.0.0.1:8000", key))


def test_a_caller_names_only_its_own_tenant() -> None:
    of_acme = Caller("manage", "acme")
    assert of_acme.tenant_for(None) == of_acme.tenant_for("acme") == "acme"
    for refused in ("other", "default"):
        with pytest.raises(Problem) as caught:
            of_acme.tenant_for(refused)
        assert (caught.value.status_code, caught.value.code) == (403, "tenant_refused")
    with pytest.raises(Problem):
        of_acme.check_tenant(None)
    assert (EVERYTHING.tenant_for(None), EVERYTHING.tenant_for("acme")) == ("default", "acme")


def test_a_caller_sees_only_its_own_tenant() -> None:
    assert Caller("read", "acme").sees("acme")
    assert not Caller("read", "acme").sees("Acme")
    assert not Caller("read", "acme").sees(None)
    assert EVERYTHING.sees("acme")


def test_every_role_is_known_and_only_admins_may_all() -> None:
    assert set(ROLES) == set(get_args(Role))
    every = {permission for permissions in ROLES.values() for permission in permissions}
    assert [role for role, permissions in ROLES.items() if permissions == every] == ["admin"]
    assert all("open" in permissions for permissions in ROLES.values())


def test_a_route_without_a_declaration_is_no_application() -> None:
    app = FastAPI(openapi_url=None)
    app.get("/forgotten")(lambda: None)
    with pytest.raises(RuntimeError, match="/forgotten declares no permission"):
        declared(app)


def test_a_plain_route_without_a_declaration_is_no_application() -> None:
    app = FastAPI(openapi_url=None)
    app.add_route("/forgotten", _handler)
    with pytest.raises(RuntimeError, match="/forgotten declares no permission"):
        declared(app)


def test_a_route_with_two_declarations_is_no_application() -> None:
    app = FastAPI(openapi_url=None)

    @app.get("/both", dependencies=[requires("open")])
    def both(caller: Manager) -> None: ...

    with pytest.raises(RuntimeError, match="/both declares"):
        declared(app)


def test_declarations_are_found_on_every_kind_of_route() -> None:
    app = FastAPI(openapi_url=None)
    app.add_route("/plain", plain("publish", _handler), methods=["POST"])
    app.get("/one", dependencies=[requires("read")])(lambda: None)

    @app.delete("/two")
    def two(caller: Manager) -> None: ...

    assert declared(app) == {("POST", "/plain"): "publish", ("GET", "/one"): "read", ("DELETE", "/two"): "manage"}


def test_the_application_declares_every_route() -> None:
    app = create_app(Settings(_env_file=None, dev_receiver=True), cast(Parts, Mock()))
    assert declared(app)["DELETE", "/keys/{key_id}"] == "admin"


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://user:canary@host", "//host", "host:80"])
def test_a_url_of_no_api_is_a_configuration_error_that_shows_nothing(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Api.of(Settings(_env_file=None), url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("0.0.0.0", "http://127.0.0.1:8000"), ("::", "http://[::1]:8000")],
)
def test_the_cli_asks_where_the_settings_say(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKLOG_URL", raising=False)
    assert Api.of(Settings(_env_file=None, api_host=host), None).url == url


async def _handler(_request: Request) -> Response:
    return Response()
