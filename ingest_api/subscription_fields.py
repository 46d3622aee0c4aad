"""The fields of a subscription as the API takes them: checked and bounded here; no message repeats a value."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, StringConstraints

from ingest_api.event_type import LONGEST, is_filter
from shared.clock import to_rfc3339
from shared.static_headers import check_static_header
from shared.subscriptions import SigningVersion
from shared.topics import parse_delay

MOST_FILTERS = 100
MOST_HEADERS = 20
MASK = "***"


def _text(value: str) -> str:
    """What Postgres can store and an answer can show."""
    if "\x00" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
        raise ValueError("holds a NUL or a lone surrogate")
    return value


def _filter(value: str) -> str:
    if not is_filter(value):
        raise ValueError(f"is an event type of 1 to {LONGEST} visible ASCII characters, or a prefix and `.*` (order.*)")
    return value


def _headers(value: dict[str, Any]) -> dict[str, Any]:
    """None as a value: the header goes away."""
    names = [name.lower() for name in value]
    if len(set(names)) < len(names):
        raise ValueError("names a header twice")
    for name, content in value.items():
        check_static_header(name, content)
    return value


def _delay(value: int | str) -> int:
    try:
        return parse_delay(str(value))
    except ValueError:
        raise ValueError("is a delay such as 10s, 5m or 2h") from None


def _exact_type(value: str) -> str:
    if not is_filter(value) or value.endswith("*"):
        raise ValueError(f"is an event type of 1 to {LONGEST} visible ASCII characters")
    return value


def _versions(value: list[SigningVersion]) -> list[SigningVersion]:
    if len(set(value)) < len(value):
        raise ValueError("names a version twice")
    return sorted(value)


Text = Annotated[str, AfterValidator(_text)]
Filter = Annotated[str, AfterValidator(_filter)]
EventType = Annotated[str, AfterValidator(_exact_type)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048), AfterValidator(_text)]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_text)]
Filters = Annotated[list[Filter], Field(max_length=MOST_FILTERS)]
Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Headers = Annotated[dict[str, str], Field(max_length=MOST_HEADERS), AfterValidator(_headers)]
HeaderChanges = Annotated[dict[str, str | None], Field(max_length=2 * MOST_HEADERS), AfterValidator(_headers)]
TimeoutSeconds = Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)]
RateLimit = Annotated[float, Field(ge=0.01, le=10_000, allow_inf_nan=False)]
MaxInFlight = Annotated[int, Field(ge=1, le=1_000)]
SigningVersions = Annotated[list[SigningVersion], Field(min_length=1, max_length=2), AfterValidator(_versions)]
Delay = Annotated[int | str, AfterValidator(_delay)]
Delays = Annotated[list[Delay], Field(max_length=20)]
Time = Annotated[datetime, PlainSerializer(lambda at: rfc3339(at), return_type=str, when_used="json")]


def rfc3339(at: datetime) -> str:
    """UTC with milliseconds, as everywhere."""
    return to_rfc3339(round(at.astimezone(UTC).timestamp() * 1000))
