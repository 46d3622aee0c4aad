"""Our errors as application/problem+json (RFC 9457): a string ``detail``, a machine-readable ``code``, no internals.

Nothing a client sent is repeated: a validation error names the field and what is wrong with it, never the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ingest_api.methods import MethodsOf
from shared.errors import StoreUnavailable, TenantFull

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "1"}
_MOST_ERRORS = 10
_LONGEST_PLACE = 100

#: Errors that the framework raises by itself.
_FRAMEWORKS = {
    400: ("malformed_body", "The body cannot be read: it is not UTF-8, or is nested too deeply."),
    404: ("not_found", "There is no such path; /docs lists those that there are."),
    405: ("method_not_allowed", "This path takes other methods: see the header Allow."),
    413: ("body_too_large", "The body is too large."),
}


class Problem(HTTPException):
    """An answer that is an error. ``detail`` is for people, ``code`` for programs."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.code = code

    @property
    def response(self) -> Response:
        return Response(
            problem_body(self.status_code, self.code, self.detail),
            self.status_code,
            self.headers,
            MEDIA_TYPE,
        )


def problem_body(status: int, code: str, detail: str, **members: Any) -> bytes:
    """The JSON of one problem."""
    title = HTTPStatus(status).phrase
    return orjson.dumps(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **members}
    )


def not_found(what: str) -> Problem:
    return Problem(404, "not_found", f"There is no such {what}.")


def store_unavailable() -> Problem:
    return Problem(503, "store_unavailable", "The database cannot be reached; try again.", RETRY_AFTER)


def unexpected() -> Problem:
    """The server logs the exception itself."""
    return Problem(500, "internal_error", "Something went wrong on our side; it has been logged.")


def install(app: FastAPI, methods_of: MethodsOf) -> None:
    """Every error of this app in the one form."""

    async def http_error(request: Request, error: Exception) -> Response:
        answer = _http_error(error)
        if answer.status_code == 405:
            answer.headers["Allow"] = ", ".join(methods_of(request.scope["path"]))
        return answer

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StoreUnavailable, _store_unavailable)
    app.add_exception_handler(TenantFull, _tenant_full)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def _http_error(error: Exception) -> Response:
    if isinstance(error, Problem):
        return error.response
    assert isinstance(error, HTTPException)
    status = error.status_code
    code, detail = _FRAMEWORKS.get(status, ("refused", f"{HTTPStatus(status).phrase}."))
    return Problem(status, code, detail, error.headers).response


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return Problem(400, "malformed_json", "The body is not JSON.").response
    errors = _described(found)
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors)
    return Response(problem_body(422, "invalid_request", detail, errors=errors), 422, media_type=MEDIA_TYPE)


async def _store_unavailable(_request: Request, _error: Exception) -> Response:
    return store_unavailable().response


async def _tenant_full(_request: Request, _error: Exception) -> Response:
    detail = "This tenant has as many subscriptions as it may have (MAX_SUBSCRIPTIONS_PER_TENANT)."
    return Problem(429, "subscription_limit", detail, {"Retry-After": "60"}).response


async def _gone(_request: Request, _error: Exception) -> Response:
    """The client left before its request was complete: nobody reads this."""
    return Problem(400, "incomplete_request", "The request ended before its body did.").response


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return unexpected().response


def _described(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of our own validators' errors pydantic says first that it was a ValueError: nobody asked."""
    return [
        {"field": _place(one["loc"]), "message": str(one["msg"]).removeprefix("Value error, ")}
        for one in found[:_MOST_ERRORS]
    ]


def _place(where: Sequence[Any]) -> str:
    """``("body", "event_types", 0)`` -> ``event_types.0``; names come from the client and are cut."""
    text = ".".join(str(part) for part in where[1:] or where)
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST_PLACE]
