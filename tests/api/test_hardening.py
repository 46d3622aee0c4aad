"""Whatever is sent, the answer is a problem and never a 500."""

from __future__ import annotations

import gzip
import json
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Api
from tests.api.test_ingest import problem

DEEP = 100_000
IDS = [
    "%00",
    "a%00b",
    "%ff%fe",
    "%ed%a0%80",
    "%F0%9F%92%A9",
    "%0d%0aSet-Cookie:%20a=b",
    "..%2f..%2fetc",
    "-1",
    "1e309",
    "NaN",
    "'%20or%201=1--",
    "%25s%25n",
    "{}",
    str(uuid.uuid4()).replace("-", ""),
    "0" * 36,
    "x" * 5000,
    "%E2%80%AE" * 20,
]
ROUTES = [
    ("POST", "/ingest/{}"),
    ("GET", "/subscriptions/{}"),
    ("DELETE", "/subscriptions/{}"),
    ("GET", "/subscriptions/{}/logs"),
    ("GET", "/status/{}"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_ids_of_any_shape_are_404(api: Api, method: str, path: str) -> None:
    for text in IDS:
        answer = await api.client.request(method, path.format(text))
        problem(answer, 404, "not_found")


@pytest.mark.parametrize("body", [b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP])
async def test_the_depth_of_json_is_bounded(api: Api, body: bytes) -> None:
    created = await api.subscribe()
    json_type = {"Content-Type": "application/json"}
    event = await api.client.post(f"/ingest/{created['id']}", content=body[:60_000], headers=json_type)
    problem(event, 400, "malformed_json")
    managed = await api.client.post("/subscriptions/", content=body, headers=json_type)
    assert managed.status_code in (400, 413)
    assert managed.headers["content-type"] == "application/problem+json"


async def test_the_deepest_json_that_is_taken_is_taken(api: Api) -> None:
    created = await api.subscribe()
    for depth, status in ((900, 202), (2000, 400)):
        body = b"[" * depth + b"]" * depth
        answer = await api.client.post(
            f"/ingest/{created['id']}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status


@pytest.mark.parametrize("field", ["target_url", "secret", "event_type", "description", "tenant"])
@pytest.mark.parametrize("text", ["a\x00b", "\\ud800", "\\udfff\\ud800"])
async def test_nul_and_lone_surrogates_in_fields_are_422(api: Api, field: str, text: str) -> None:
    body: dict[str, Any] = {"target_url": "https://example.com/"} | {field: "MARK"}
    content = json.dumps(body).replace("MARK", text.replace("\x00", "\\u0000"))
    answer = await api.client.post("/subscriptions/", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x" * 300])
async def test_a_coded_event_is_415(api: Api, coding: str) -> None:
    created = await api.subscribe()
    bomb = gzip.compress(b"0" * 10_000_000)
    answer = await api.client.post(f"/ingest/{created['id']}", content=bomb, headers={"Content-Encoding": coding})
    problem(answer, 415, "encoding_refused")


@pytest.mark.parametrize("path", ["/subscriptions/", "/subscriptions/x/rotate-secret", "/keys/", "/urldata/"])
async def test_a_coded_management_body_is_refused_and_not_unpacked(api: Api, path: str) -> None:
    coded = gzip.compress(b'{"target_url": "https://example.com/"}')
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    problem(await api.client.post(path, content=coded, headers=headers), 415, "encoding_refused")
    plain = await api.client.post(path, content=b"[]", headers={**headers, "Content-Encoding": "identity"})
    problem(plain, 422, "invalid_request")


async def test_a_body_in_another_charset_is_400(api: Api) -> None:
    content, headers = b'{"target_url": "\xff"}', {"Content-Type": "application/json"}
    problem(await api.client.post("/subscriptions/", content=content, headers=headers), 400, "malformed_body")


NAMES = st.sampled_from(
    (
        b"X-Event-Type Content-Type X-Hub-Signature-256 Signature Webhook-Id Webhook-Timestamp Webhook-Signature"
        b" Idempotency-Key traceparent X-Hooklog-Hops Content-Encoding Expect"
    ).split()
)
#: What the parser lets through: everything but control characters; a value has no space around it.
VALUES = st.binary(max_size=60).map(lambda value: bytes(c for c in value if c >= 32 and c != 127).strip())


@pytest.mark.parametrize("fields", [{}, {"secret": "s"}, {"secret": "s", "signature_scheme": "standard"}])
async def test_no_header_and_no_body_is_a_500(api: Api, fields: dict[str, str]) -> None:
    created = await api.subscribe(**fields)
    examples: list[tuple[list[tuple[bytes, bytes]], bytes]] = []

    @given(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.binary(max_size=40))
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def collect(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        examples.append((headers, body))

    collect()
    for headers, body in examples:
        answer = await api.client.post(f"/ingest/{created['id']}", content=body, headers=headers)
        assert answer.status_code < 500, (headers, body, answer.text)


@pytest.mark.parametrize("value", [b"a\xffb", "ü".encode(), b"x" * 257])
async def test_an_event_type_header_that_cannot_go_on_is_400(api: Api, value: bytes) -> None:
    created = await api.subscribe()
    answer = await api.client.post(f"/ingest/{created['id']}", content=b"x", headers=[(b"X-Event-Type", value)])
    problem(answer, 400, "event_type_unusable")


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\x00"])
async def test_a_header_with_a_line_break_or_a_nul_is_refused(api: Api, ending: bytes) -> None:
    created = await api.subscribe()
    head = f"POST /ingest/{created['id']} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n"
    answer = await api.raw(head.encode() + b"X-Event-Type: a" + ending + b"b: c\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 202 "))
    if answer.startswith(b"HTTP/1.1 202"):
        assert ending == b"\n"  # a bare LF ends a line, RFC 9112 section 2.2: `b` is a header of its own
