"""hooklog keys: create, list and revoke API keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import quote

import typer

from cli.api import KEY_VARIABLE, URL_VARIABLE, Api, Refused
from shared.api_keys import Role
from shared.errors import ConfigurationError
from shared.settings import load_settings

app = typer.Typer(help=f"API keys. Asks the API, with ${KEY_VARIABLE} or ADMIN_API_KEY.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option(help=f"The API. Else ${URL_VARIABLE}, else API_HOST and API_PORT.")]
Json = Annotated[bool, typer.Option("--json", help="Print what the API answered.")]
_PAGE = 100
_T = TypeVar("_T")


@app.command()
def create(
    role: Annotated[Role, typer.Option(help="publish: events; read: look; manage: also change; admin: all.")],
    tenant: Annotated[str | None, typer.Option(help="Only what is of this tenant. Else: of all.")] = None,
    name: Annotated[str, typer.Option(help="For people.")] = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, this once."""
    body = {"role": role, "tenant": tenant, "name": name}
    created = _done(lambda: _api(url).ask("POST", "/keys/", json=body))
    typer.echo(_json_text(created) if as_json else created["key"])
    typer.echo(f"id {created['id']}, {_described(created)}. The key is not shown again.", err=True)


@app.command("list")
def list_all(url: Url = None, as_json: Json = False) -> None:
    """List the keys that work, the oldest first."""
    keys = _done(lambda: _all(_api(url)))
    lines = [f"{one['id']}  {one['prefix']}…  {one['created_at']}  {_described(one)}" for one in keys]
    for line in [_json_text(keys)] if as_json else lines:
        typer.echo(line)


@app.command()
def revoke(key_id: str, url: Url = None, as_json: Json = False) -> None:
    """Revoke a key: within a second it works nowhere any more."""
    _done(lambda: _api(url).ask("DELETE", f"/keys/{quote(key_id, safe='')}"))
    typer.echo(_json_text({"id": key_id, "revoked": True}) if as_json else f"revoked {key_id}")


def _api(url: str | None) -> Api:
    return Api.of(load_settings(), url)


def _all(api: Api) -> list[dict[str, Any]]:
    """Page after page; there are at most 10,000."""
    keys: list[dict[str, Any]] = []
    while True:
        page = api.ask("GET", "/keys/", params={"skip": len(keys), "limit": _PAGE})
        keys += page
        if len(page) < _PAGE:
            return keys


def _described(key: dict[str, Any]) -> str:
    tenant = f"tenant {key['tenant']}" if key["tenant"] else "all tenants"
    return f"{key['role']}, {tenant}{': ' + key['name'] if key['name'] else ''}"


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _done(ask: Callable[[], _T]) -> _T:
    """What ``ask`` gives; else one line and the exit code that says whose fault it is."""
    try:
        return ask()
    except ConfigurationError as error:
        _end(str(error), 2)
    except Refused as error:
        _end(str(error), 1)


def _end(text: str, code: int) -> NoReturn:
    typer.echo(f"hooklog: {text}", err=True)
    raise typer.Exit(code)
