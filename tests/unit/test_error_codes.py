"""docs/errors.md lists the codes that the API answers with: all of them, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ingest_api import problems

ROOT = Path(__file__).parents[2]
_LISTED = re.findall(
    r"^\| `([a-z_]+)` \| (\d{3}|4xx) \| .+\. *\|$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
)
#: Which argument of these calls is the code.
_CODE_AT = {"Problem": 1, "problem_body": 1, "busy": 0, "_busy": 0}


def codes_in(source: str) -> Iterator[tuple[str, int | None]]:
    """Every code written as a literal in the source, with its status where that is a literal too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            at = _CODE_AT.get(str(name))
            if at is not None and len(node.args) > at and isinstance(code := node.args[at], ast.Constant):
                status = ast.literal_eval(node.args[0]) if at and isinstance(node.args[0], ast.Constant) else None
                yield str(code.value), status if at else 503


def test_every_code_is_listed_once_with_its_status() -> None:
    written = {pair for path in (ROOT / "ingest_api").glob("*.py") for pair in codes_in(path.read_text())}
    written |= {(code, status) for status, (code, _detail) in problems._FRAMEWORKS.items()} | {("refused", None)}
    listed = {(code, None if status == "4xx" else int(status)) for code, status in _LISTED}
    assert listed == written
    assert [code for code, _ in _LISTED] == sorted(code for code, _ in _LISTED)


def test_search_for_codes_finds_them() -> None:
    source = 'raise Problem(418, "short", "…")\nraise busy("long", "…")\nProblem(418, code, "…")'
    assert set(codes_in(source)) == {("short", 418), ("long", 503)}
