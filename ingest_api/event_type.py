"""Pure: which type an incoming event has."""

from __future__ import annotations

from typing import Any

from shared.event_filter import LONGEST, is_event_type, is_filter, wants

__all__ = ["LONGEST", "UnusableEventType", "event_type_of", "is_filter", "wants"]


class UnusableEventType(ValueError):
    """An event type that was given and cannot be one."""


def event_type_of(header: str | None, query: str | None, document: Any) -> str | None:
    """The type by the first that names one: header, query, then the JSON body's `event_type`, `type`, `event`.

    Raises UnusableEventType when header, query or `event_type` hold something else than 1 to 256 visible ASCII
    characters. `type` and `event` are everyday words: what cannot be a type there is passed over.
    """
    for given in (header, query):
        if given:
            return _checked(given)
    if not isinstance(document, dict):
        return None
    given = document.get("event_type")
    if isinstance(given, str) and given:
        return _checked(given)
    everyday = (document.get("type"), document.get("event"))
    return next((text for text in everyday if isinstance(text, str) and is_event_type(text)), None)


def _checked(text: str) -> str:
    if not is_event_type(text):
        raise UnusableEventType(f"an event type is 1 to {LONGEST} visible ASCII characters")
    return text
