"""The description is true: whatever it allows to be asked is answered as it says, and nothing is a 5xx.

schemathesis draws requests from the description, good ones and bad ones, and compares the answers with it. The seed is
fixed: a failure comes again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from jsonschema_rs import validator_for
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import Api
from tests.api.test_status import sink, status_when  # noqa: F401 - the fixture

_SEED = 4_711
_EXAMPLES = 40
#: For all operations together.
_WITHIN_S = 120.0
#: Headers of any answer, which HTTP itself describes.
_OF_HTTP = {"content-length", "content-type", "date", "connection", "cache-control"}


def headers_are_documented(_context: Any, response: Any, case: Any) -> None:
    """Whatever else an answer's head holds is in the description of that answer."""
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
    unknown = {name.lower() for name in response.headers} - _OF_HTTP - {name.lower() for name in described}
    assert not unknown, f"{case.operation.label} {response.status_code}: {sorted(unknown)}"


_CHECKS = [
    headers_are_documented,
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
async def known(api: Api, sink: None) -> dict[str, str]:  # noqa: F811
    """Ids that there are: half of the requests ask for them."""
    created = await api.subscribe()
    sent = await api.client.post(f"/ingest/{created['id']}", json={"type": "order.paid"})
    event = sent.json()["webhook_id"]
    await status_when(api, event, "queued")
    return {"subscription_id": created["id"], "u_id": created["id"], "webhook_id": event, "delivery_id": event}


#: The server lives in this process, and what it uses is not ours to seed.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_every_answer_is_a_documented_one_and_none_is_5xx(api: Api, known: dict[str, str]) -> None:
    description = (await api.client.get("/openapi.json")).json()
    schema = schemathesis.openapi.from_dict(description)
    began_s, asked = time.monotonic(), 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            asked += await asyncio.to_thread(_ask, operation, mode, f"http://127.0.0.1:{api.port}", known)
    took_s = time.monotonic() - began_s
    print(f"{asked} requests in {took_s:.0f} s")
    assert took_s < _WITHIN_S


def _ask(operation: Any, mode: GenerationMode, url: str, known: dict[str, str]) -> int:
    """How many requests were sent. Raises schemathesis' failures, with a curl command."""
    asked = 0

    @hypothesis.seed(_SEED)
    @hypothesis.settings(
        max_examples=_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=_PHASES
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode), st.booleans())
    def ask(case: Any, at_a_known_place: bool) -> None:
        nonlocal asked
        asked += 1
        if at_a_known_place and operation.method.upper() != "DELETE" and mode is GenerationMode.POSITIVE:
            case.path_parameters.update({name: known[name] for name in known if name in case.path_parameters})
        case.call_and_validate(base_url=url, checks=_CHECKS, timeout=10)

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        return 0  # nothing can be wrong about this one
    return asked


#: Shrinking would cost minutes; the failure names its request.
_PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_an_answer_that_is_not_in_the_description_is_found(api: Api) -> None:
    description = (await api.client.get("/openapi.json")).json()
    path = "/subscriptions/{subscription_id}"
    operation = description["paths"][path]["get"]
    del operation["responses"]["404"]
    schema = schemathesis.openapi.from_dict({**description, "paths": {path: {"get": operation}}})
    with pytest.raises(FailureGroup, match="404"):
        await asyncio.to_thread(_ask, schema[path]["GET"], GenerationMode.POSITIVE, f"http://127.0.0.1:{api.port}", {})


async def test_every_example_fits_its_schema(api: Api) -> None:
    description = (await api.client.get("/openapi.json")).json()
    checked = 0
    for place, schema, example in _examples(description, "#"):
        validator_for({**schema, "components": description["components"]}).validate(example)
        checked += 1
        assert place
    assert checked > 50


def _examples(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example with the schema beside it."""
    if isinstance(node, dict):
        if "example" in node and isinstance(node.get("schema"), dict):
            yield place, node["schema"], node["example"]
        elif "example" in node and "type" in node:
            yield place, node, node["example"]
        for name, value in node.items():
            yield from _examples(value, f"{place}/{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _examples(value, f"{place}/{number}")
