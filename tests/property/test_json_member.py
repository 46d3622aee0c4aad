"""The bytes of one member, cut out of a JSON object."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.json_member import member_bytes

space = st.text(st.sampled_from(" \t\r\n"), max_size=3)
names = st.text(st.characters(codec="utf-8"), max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def written(draw: st.DrawFn, value: st.SearchStrategy[object]) -> bytes:
    """One of the many texts of a value."""
    indent, ascii_only = draw(st.none() | st.integers(0, 3)), draw(st.booleans())
    return json.dumps(draw(value), indent=indent, ensure_ascii=ascii_only).encode()


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, bytes | None]:
    """An object's text and the text of its last `payload`."""
    members = draw(st.lists(st.tuples(st.just("payload") | names, written(values)), max_size=5))
    pieces = []
    for name, text in members:
        spaces = [draw(space).encode() for _ in range(4)]
        key = json.dumps(name, ensure_ascii=draw(st.booleans())).encode()
        pieces.append(spaces[0] + key + spaces[1] + b":" + spaces[2] + text + spaces[3])
    inside = b",".join(pieces) or draw(space).encode()
    document = draw(space).encode() + b"{" + inside + b"}" + draw(space).encode()
    return document, next((text for name, text in reversed(members) if name == "payload"), None)


@given(objects())
def test_the_bytes_are_those_in_the_document(case: tuple[bytes, bytes | None]) -> None:
    document, expected = case
    assert isinstance(orjson.loads(document), dict)
    assert member_bytes(document, "payload") == expected


@given(objects())
def test_what_is_cut_is_what_a_parser_reads(case: tuple[bytes, bytes | None]) -> None:
    document, _expected = case
    cut = member_bytes(document, "payload")
    parsed = orjson.loads(document)
    assert ("payload" in parsed) == (cut is not None)
    assert cut is None or orjson.loads(cut) == parsed["payload"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"payload":1.50e1}', b"1.50e1"),
        (b'{"p\\u0061yload" : "\\u00e9\xc3\xa9" }', b'"\\u00e9\xc3\xa9"'),
        (b'{"other":{"payload":1}}', None),
        (b'{"payload":' + b"9" * 10_000 + b"}", b"9" * 10_000),
        (b'{"payload":"}{\\"payload\\":2"}', b'"}{\\"payload\\":2"'),
    ],
)
def test_examples(document: bytes, expected: bytes | None) -> None:
    assert member_bytes(document, "payload") == expected


@pytest.mark.parametrize("depth", [500, 900, 1000, 1020])
def test_a_deep_document_is_cut_or_refused(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    try:
        cut = member_bytes(b'{"payload":' + deep + b"}", "payload")
    except ValueError as error:
        assert str(error) == "nested too deeply"
    else:
        assert cut == deep
