"""Subscriptions, as the apps see them: one import for what they are, their truth (Postgres) and their look-up."""

from shared.subscription import (
    Absent,
    Created,
    ExpiringKey,
    Found,
    ListFilter,
    NewSubscription,
    SignatureScheme,
    SigningVersion,
    Status,
    Subscription,
    Unreachable,
    canonical_id,
)
from shared.subscription_changes import Changes
from shared.subscription_map import SubscriptionMap
from shared.subscription_store import SubscriptionStore
from shared.tenant_sets import Interest

__all__ = [
    "Absent",
    "Changes",
    "Created",
    "ExpiringKey",
    "Found",
    "Interest",
    "ListFilter",
    "NewSubscription",
    "SignatureScheme",
    "SigningVersion",
    "Status",
    "Subscription",
    "SubscriptionMap",
    "SubscriptionStore",
    "Unreachable",
    "canonical_id",
]
