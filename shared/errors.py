"""Our exceptions, as a tree.

HooklogError
├── ConfigurationError   a setting cannot be used: one line, exit 2
├── UnreadableRecord     the record's fault: it goes to the dead letters with its reason
├── RecordTooLarge       the record does not fit its next hop: the record's fault as well
├── NotConfirmed         Kafka did not confirm in time: the record may or may not be written
├── StoreUnavailable     Postgres is out of reach: wait and try again
├── TenantFull           the tenant has as many subscriptions as it may have
├── ValuesRefused        Postgres does not store these values: trying again would not help
├── TooManyKeys          a subscription has as many signing keys as it may: wait until one runs out
└── InvariantBroken      a fault of ours: the process ends and starts again from the committed offset
"""

from __future__ import annotations


class HooklogError(Exception):
    """Whatever we raise ourselves."""


class ConfigurationError(HooklogError):
    """A setting cannot be used. The text is one line, names the setting and shows no secret."""


class UnreadableRecord(HooklogError):
    """A Kafka record that is not a delivery. ``reason`` is a short word for people and programs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RecordTooLarge(HooklogError):
    """A record over its topic's limit; it was not sent."""


class NotConfirmed(HooklogError):
    """No acknowledgement within the time given. The record *may* have been written."""


class StoreUnavailable(HooklogError):
    """Postgres cannot be reached. Nothing was changed."""


class TenantFull(HooklogError):
    """MAX_SUBSCRIPTIONS_PER_TENANT is reached. Nothing was changed."""


class ValuesRefused(HooklogError):
    """Postgres was asked to store what it cannot (bad data, a broken constraint, too large). Nothing was changed."""


class TooManyKeys(HooklogError):
    """Rotated too often within the overlap. Nothing was changed."""


class InvariantBroken(HooklogError):
    """Something that cannot happen did."""
