"""Pure: ids that are drawn, and ids that are derived, so that whatever is repeated has the name that it had."""

from __future__ import annotations

import uuid

import uuid_utils

#: Ids that are derived, never drawn, are made in this namespace. Another one would undo "repeats are harmless".
_NAMESPACE = uuid_utils.UUID("6f6c6b6f-6f68-5f67-8000-9c3f1d5a7b21")


def new_webhook_id() -> str:
    """A fresh UUIDv7 (RFC 9562): its first 48 bits are the milliseconds since 1970."""
    return str(uuid_utils.uuid7())


def uuid7_ms(text: str) -> int | None:
    """The time inside a UUIDv7; None for anything else."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed.int >> 80 if parsed.version == 7 else None


def attempt_id(webhook_id: str, run: int, attempt: int) -> str:
    """Derived from (delivery, run, number), so that a repeated attempt is one row."""
    return derived_id(f"{webhook_id}/{run}/{attempt}")


def delivery_id(event_id: str, subscription_id: str) -> str:
    """Derived from both, so that an event fanned out twice is one delivery.

    No attempt and no place in a log has such a text: those end in "/number" and ":number", this in ">" and a UUID.
    """
    return derived_id(f"{event_id}>{subscription_id}")


def disabling_id(subscription_id: str, version: int, reason: str) -> str:
    """Of the event that tells of it: the same however often one version of the subscription is disabled.

    It ends in a word: no other text that an id is made from does.
    """
    return derived_id(f"{subscription_id}@{version} {reason}")


def derived_id(text: str) -> str:
    """A UUIDv5 (RFC 9562) in our namespace; Python's own takes seven times as long."""
    return str(uuid_utils.uuid5(_NAMESPACE, text))
