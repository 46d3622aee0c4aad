"""Bodies, answers and words of earlier services of this kind, and how ours read in them. Pure.

A number in a name is that of the service: docs/earlier-services.md tells which is which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ingest_api.status_shapes import AttemptAnswer
from ingest_api.subscription_fields import Secret, Time, Url
from ingest_api.subscription_shapes import SubscriptionAnswer

#: What the first one calls an attempt: one that the receiver itself refused (4xx), or any other that failed.
Word0 = Literal["Success", "Failed Attempt", "Failure"]
Word1 = Literal["success", "failed"]
Word2 = Literal["Success", "Failed Attempt", "Failure"]
Word3 = Literal["success", "failed", "in_progress", "pending"]

_WORDS_1: dict[str | None, Word1] = {"succeeded": "success"}
_WORDS_2: dict[str | None, Word2] = {"succeeded": "Success", "failed_attempt": "Failed Attempt"}


class UrlData(BaseModel):
    """Service 0: a new subscription. The secret may be left out here."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"url": "https://example.com", "secret": "s"}})

    url: Url
    secret: Secret | None = None


class NewUrl(BaseModel):
    """Service 0: another address."""

    model_config = ConfigDict(strict=True)

    new_url: Url


class UrlDataAnswer(BaseModel):
    """Service 0, without the secret."""

    u_id: str
    url: str
    has_secret: bool

    @classmethod
    def of(cls, answer: SubscriptionAnswer) -> UrlDataAnswer:
        return cls(u_id=answer.id, url=answer.target_url, has_secret=answer.has_secret)


class Message(BaseModel):
    """What was done, in words."""

    message: str


class CreateBody(BaseModel):
    """Service 3: a new subscription."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": {"url": "https://example.com", "secret": "s"}})

    url: Url
    secret: Secret | None = None


class UpdateBody(BaseModel):
    """Service 3: what is left out stays."""

    model_config = ConfigDict(strict=True)

    id: str | int | None = Field(None, description="400 without it.")
    url: Url | None = None
    secret: Secret | None = Field(None, description="null: events come unsigned.")

    def changes(self) -> dict[str, Any]:
        """The fields of a merge patch."""
        url = {} if self.url is None else {"target_url": self.url}
        return url | ({"secret": self.secret} if "secret" in self.model_fields_set else {})


class DeleteBody(BaseModel):
    """Service 3: which one."""

    model_config = ConfigDict(strict=True)

    id: str | int | None = Field(None, description="400 without it.")


class Subscription3(BaseModel):
    """Service 3, flat, as its document has it."""

    id: str
    url: str
    has_secret: bool
    created_at: Time

    @classmethod
    def of(cls, answer: SubscriptionAnswer) -> Subscription3:
        return cls(id=answer.id, url=answer.target_url, has_secret=answer.has_secret, created_at=answer.created_at)


class Updated3(Message):
    """Service 3: the subscription as it is now."""

    data: Subscription3


class Log0(BaseModel):
    """Service 0: an attempt. `status_code` and `error` are there when there is one."""

    delivery_id: str
    subscription_id: str
    attempt: int
    target_url: str | None
    outcome: Word0
    status_code: int | None = None
    error: str | None = None
    timestamp: Time

    @classmethod
    def of(cls, row: AttemptAnswer) -> Log0:
        return cls(
            delivery_id=row.webhook_id,
            subscription_id=row.subscription_id,
            attempt=row.attempt_number,
            target_url=row.target_url,
            outcome=_word_0(row),
            status_code=row.http_status_code,
            error=row.error_details,
            timestamp=row.attempted_at,
        )


def logs_0(rows: Iterable[AttemptAnswer]) -> dict[str, list[Log0]]:
    """Under the names of its Redis keys: each attempt once by its delivery, and once by its subscription."""
    found: dict[str, list[Log0]] = {}
    for row in rows:
        for name in (f"delivery:{row.webhook_id}", f"subscription:{row.subscription_id}:logs"):
            found.setdefault(name, []).append(Log0.of(row))
    return found


class Log1(BaseModel):
    """Service 1: an attempt."""

    id: str
    subscription_id: str
    webhook_id: str
    timestamp: Time
    attempt: int
    status: Word1
    http_status: int | None
    error: str | None

    @classmethod
    def of(cls, row: AttemptAnswer) -> Log1:
        return cls(
            id=row.id,
            subscription_id=row.subscription_id,
            webhook_id=row.webhook_id,
            timestamp=row.attempted_at,
            attempt=row.attempt_number,
            status=_WORDS_1.get(row.outcome, "failed"),
            http_status=row.http_status_code,
            error=row.error_details,
        )


class Log2(BaseModel):
    """Service 2: an attempt."""

    id: str
    task_id: str
    subscription_id: str
    target_url: str | None
    attempt_number: int
    status: Word2
    status_code: int | None
    error_message: str | None
    timestamp: Time

    @classmethod
    def of(cls, row: AttemptAnswer) -> Log2:
        return cls(
            id=row.id,
            task_id=row.webhook_id,
            subscription_id=row.subscription_id,
            target_url=row.target_url,
            attempt_number=row.attempt_number,
            status=_WORDS_2.get(row.outcome, "Failure"),
            status_code=row.http_status_code,
            error_message=row.error_details,
            timestamp=row.attempted_at,
        )


class Log3(BaseModel):
    """Service 3: an attempt. Ours are over when they are logged: `in_progress` and `pending` do not come up."""

    id: str
    webhook_id: str
    attempt_number: int
    status: Word3
    response_code: int | None
    timestamp: Time

    @classmethod
    def of(cls, row: AttemptAnswer) -> Log3:
        return cls(
            id=row.id,
            webhook_id=row.webhook_id,
            attempt_number=row.attempt_number,
            status=_WORDS_1.get(row.outcome, "failed"),
            response_code=row.http_status_code,
            timestamp=row.attempted_at,
        )


class Ping(BaseModel):
    """Service 3: that we are here, and the tables behind us."""

    message: Literal["API is up and running"] = "API is up and running"
    database: dict[Literal["tables"], list[str]]


def _word_0(row: AttemptAnswer) -> Word0:
    if row.outcome == "succeeded":
        return "Success"
    refused = row.http_status_code is not None and 400 <= row.http_status_code < 500
    return "Failed Attempt" if refused else "Failure"
