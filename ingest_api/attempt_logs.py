"""The newest attempts, of one subscription or of all: pages and filters over the attempt log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema

from ingest_api.openapi import problems
from ingest_api.paging import CURSOR_PATTERN, cursor_of, next_link, position_of
from ingest_api.permissions import Reader
from ingest_api.problems import Problem
from ingest_api.status_shapes import AttemptAnswer, Standing
from ingest_api.subscription_fields import Text
from ingest_api.subscriptions import Store, find
from shared.attempt_log import SKIP_MAX, AttemptLog, LoggedAttempt
from shared.clock import from_rfc3339, to_datetime
from shared.log_query import LogFilter, Position
from shared.subscriptions import canonical_id

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,6}\d*)?(?:[Zz]|[+ -]\d\d:\d\d)", re.ASCII)
#: The header of a page that is not the last one.
LINK: dict[str, Any] = {
    "Link": {
        "description": '`<…>; rel="next"` (RFC 8288): where the next page is. Absent on the last one.',
        "schema": {"type": "string"},
    }
}


def _time(value: str) -> datetime:
    """RFC 3339; a `+` that was not escaped in the query has become a space."""
    text = str(value)
    if not _RFC3339.fullmatch(text):
        raise ValueError("is a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
    text = re.sub(r"(\.\d{6})\d+", r"\1", text.upper())
    try:
        return to_datetime(from_rfc3339(text[:-6] + "+" + text[-5:] if text[-6] == " " else text))
    except (ValueError, OverflowError):
        raise ValueError("is no time of the calendar") from None


Time = Annotated[datetime, BeforeValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]
Id = Annotated[Text, Field(max_length=1024), AfterValidator(lambda text: canonical_id(text) or text)]


class LogQuestion(BaseModel):
    """Which attempts; every part may be left out."""

    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, pattern=CURSOR_PATTERN, description="From the `Link` header of the page before.")
    outcome: Literal["succeeded", "failed_attempt", "permanently_failed"] | None = None
    status: Standing | None = Field(None, description="Where the attempt's event stands now.")
    http_status_code: int | None = Field(None, ge=100, le=999)
    event_type: Text | None = Field(None, max_length=1024, description="Exactly this type.")
    since: Time | None = Field(None, description="Attempted at this time or later (RFC 3339).")
    until: Time | None = Field(None, description="Attempted before this time (RFC 3339).")

    def wanted(self, subscription_id: str | None, tenant: str | None) -> LogFilter:
        """The same in the words of the log. ``tenant`` None: of all of them."""
        return LogFilter(
            subscription_id=subscription_id,
            tenant=tenant,
            event_type=self.event_type,
            outcome=self.outcome,
            status=self.status,
            http_status_code=self.http_status_code,
            since=self.since,
            until=self.until,
        )

    def after(self) -> Position | None:
        """Problem 422 for a cursor that was never one of ours."""
        try:
            return None if self.cursor is None else position_of(self.cursor)
        except ValueError:
            raise Problem(422, "cursor_unusable", "cursor is not one that this API gave.") from None


class AllLogsQuestion(LogQuestion):
    """The same over all subscriptions."""

    skip: int = Field(0, ge=0, le=SKIP_MAX, description="Not together with `cursor`, which goes deeper.")
    limit: int = Field(100, ge=1, le=100)
    subscription_id: Id | None = None


def router(log: AttemptLog, store: Store) -> APIRouter:
    """Both lists: arrays, the newest first, `[]` when there is nothing; more of them behind the Link header."""
    routes = APIRouter(tags=["status"])
    answers = {200: {"headers": LINK}, **problems(422)}

    @routes.get("/logs", responses=answers)
    def all_logs(
        asked: Annotated[AllLogsQuestion, Query()], caller: Reader, request: Request, response: Response
    ) -> list[AttemptAnswer]:
        """The newest attempts of all."""
        if asked.cursor is not None and asked.skip:
            raise Problem(422, "skip_and_cursor", "skip and cursor exclude each other.")
        wanted = asked.wanted(asked.subscription_id, caller.tenant)
        return _page(log.newest(asked.skip, asked.limit + 1, wanted, asked.after()), asked.limit, request, response)

    @routes.get("/subscriptions/{subscription_id}/logs", responses={**answers, **problems(404)})
    def logs(
        subscription_id: str,
        asked: Annotated[LogQuestion, Query()],
        caller: Reader,
        request: Request,
        response: Response,
    ) -> list[AttemptAnswer]:
        """The newest attempts of one subscription."""
        wanted = asked.wanted(find(store, subscription_id, caller).id, caller.tenant)
        return _page(log.newest(0, asked.limit + 1, wanted, asked.after()), asked.limit, request, response)

    return routes


def _page(rows: Sequence[LoggedAttempt], limit: int, request: Request, response: Response) -> list[AttemptAnswer]:
    """``rows`` hold one more than the page when another page follows."""
    page = rows[:limit]
    if len(rows) > limit:
        last = Position(page[-1].attempted_at, UUID(page[-1].id))
        response.headers["Link"] = next_link(request.url.path, request.query_params, cursor_of(last))
    return [AttemptAnswer.of(one) for one in page]
