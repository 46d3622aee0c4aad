"""What the README says, against the code: settings, commands, routes, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast, get_args
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from ingest_api.app import create_app
from ingest_api.parts import Parts
from shared.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RELIABILITY = (ROOT / "docs/reliability.md").read_text()
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))


def test_settings_table_is_the_settings() -> None:
    """Every name once, in the order of the code, with its default."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? *\| (.+) \|$", README, re.MULTILINE)
    fields = [(name.upper(), default_text(field.default)) for name, field in Settings.model_fields.items()]
    assert [(name, default) for name, default, _meaning in rows] == fields
    assert all(meaning.endswith(".") for _name, _default, meaning in rows)


def test_every_setting_the_words_name_exists() -> None:
    names = {name.upper() for name in Settings.model_fields}
    values = {value for field in Settings.model_fields.values() for value in get_args(field.annotation)}
    mentioned = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", README))
    assert mentioned - names - values == set()


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in _pages() for name in re.findall(r"\bmake ([a-z]+)\b(?= *[`#\n])", text)}
    assert {"up", "test", "check"} <= named <= targets


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_folder_and_file_named_exists() -> None:
    named = {name for text in _pages() for name in re.findall(r"`([a-z_]+/(?:[a-z_]+\.py)?)`", text)}
    named |= {f"tests/{suite}" for suite in re.findall(r"`([a-z_]+)`", _row("tests/"))}
    assert {"ingest_api/", "shared/", "tests/faults"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_test_that_is_to_show_something_exists() -> None:
    named = {name for text in _pages() for name in re.findall(r"tests/[a-z_/]+\.py", text)}
    assert {"tests/faults/oracle.py", "tests/contract/test_janitor.py"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_routes_named_are_those_there_are() -> None:
    """All of them, and no other: the table of routes is complete."""
    there = _routes(deprecated=False)
    table = README.partition("## What the API answers")[2].partition("##")[0]
    written = re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[a-z_/{}-]*)`", table)
    assert sorted(map(_nameless, written)) == sorted(map(_nameless, there | {"GET /docs"}))


def test_earlier_services_routes_named_are_those_there_are() -> None:
    page = (ROOT / "docs/earlier-services.md").read_text()
    written = re.findall(r"^\| \d \| `([A-Z]+ /[a-z0-9_/{}]*)` \|", page, re.MULTILINE)
    assert sorted(map(_nameless, written)) == sorted(map(_nameless, _routes(deprecated=True)))


def test_decisions_are_numbered_without_gaps_and_have_their_parts() -> None:
    assert [page.name[:4] for page in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]
    for page in DECISIONS:
        headings = re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "Alternatives"], page.name


@pytest.mark.parametrize(
    "claim", [r"\d[\d,. ]*k?(?: events| deliveries| requests)?/s\b", r"\bper second\b", r"\bms\b", r"\bfast"]
)
def test_readme_claims_no_speed(claim: str) -> None:
    """A rate or a latency may be named together with the benchmark that shows it; there is none yet."""
    assert re.findall(claim, README) == []


def default_text(default: Any) -> str:
    """A default as a person would write it into the environment."""
    match default:
        case SecretStr():
            return default.get_secret_value()
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case tuple():
            return ",".join(f"{part}s" if isinstance(part, int) else str(part) for part in default)
        case _:
            return str(default)


def _routes(*, deprecated: bool) -> set[str]:
    app = create_app(
        load_settings(_env_file=None, dev_receiver=False), cast(Parts, Mock())
    )  # its routes are all we ask
    operations = ((path, method, one) for path, item in app.openapi()["paths"].items() for method, one in item.items())
    return {
        f"{method.upper()} {path}" for path, method, one in operations if one.get("deprecated", False) == deprecated
    }


def _nameless(route: str) -> str:
    """A route whatever its parameters are called."""
    return re.sub(r"{\w+}", "{}", route)


def _pages() -> list[str]:
    return [README, RELIABILITY, *(page.read_text() for page in DECISIONS)]


def _row(folder: str) -> str:
    """The second cell of the folder's row."""
    return README.partition(f"| `{folder}` |")[2].partition("\n")[0]
