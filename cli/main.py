"""The hooklog command."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli import keys
from shared.errors import ConfigurationError, HooklogError
from shared.settings import load_settings
from shared.signature import hub_signature

app = typer.Typer(
    help="Webhooks delivered from a Kafka log.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(keys.app, name="keys")

_SECRET_VARIABLE = "HOOKLOG_SECRET"  # noqa: S105 - a variable's name


@app.callback()
def main() -> None:
    """Webhooks delivered from a Kafka log. Exit codes: 0 done, 1 failed, 2 a setting or an argument cannot be used."""


@app.command()
def up() -> None:
    """Start everything here, send a first event through it, and stay until Ctrl-C."""
    try:
        from deploy.local_stack import up as run_up
    except ModuleNotFoundError as missing:
        _end(f"{missing.name} is not installed: `hooklog up` needs the stack's wheels (make venv)", 2)
    raise typer.Exit(run_up())


@app.command()
def migrate() -> None:
    """Create what is missing: database, tables, topics; seal secrets under the newest key. Safe to repeat."""
    from deploy.prepare import prepare_stores

    try:
        settings = load_settings()
        prepared = asyncio.run(prepare_stores(settings))
    except ConfigurationError as error:
        _end(str(error), 2)
    except HooklogError as error:
        _end(f"{error}", 1)
    if prepared.newer_schema:
        typer.echo(f"database: at migration {prepared.newer_schema} of a newer version, left as it is")
    else:
        typer.echo("database: at the newest migration")
    typer.echo(f"topics: created {', '.join(prepared.topics)}" if prepared.topics else "topics: all there")
    if prepared.resealed_rows:
        typer.echo(f"secrets: {prepared.resealed_rows} rows sealed again under the first key of ENCRYPTION_KEY")


@app.command()
def sign(
    body: Annotated[
        Path | None, typer.Argument(help="A file with the exact body; - or nothing: standard input.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help=f"A file with the secret. Else ${_SECRET_VARIABLE}, else asked for.")
    ] = None,
) -> None:
    """Print the header that signs a body for POST /ingest/ID, ready for `curl -H`."""
    try:
        key = _secret(secret_file)
        content = body.read_bytes() if body and str(body) != "-" else sys.stdin.buffer.read()
    except OSError as error:
        _end(f"{error.filename}: {error.strerror}", 2)
    typer.echo(f"X-Hub-Signature-256: {hub_signature(key, content)}")


def _secret(secret_file: Path | None) -> bytes:
    """Never an argument: other people of this machine see those."""
    if secret_file:
        return secret_file.read_bytes().rstrip(b"\r\n")
    if from_environment := os.environ.get(_SECRET_VARIABLE):
        return from_environment.encode()
    if not sys.stderr.isatty():
        _end(f"no secret: name --secret-file or ${_SECRET_VARIABLE}", 2)
    return str(typer.prompt("Secret", hide_input=True, err=True)).encode()


def _end(text: str, code: int) -> NoReturn:
    typer.echo(f"hooklog: {text}", err=True)
    raise typer.Exit(code)
