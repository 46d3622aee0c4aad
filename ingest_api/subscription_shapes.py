"""What the subscription routes take and answer, and how it reads in the words of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from ingest_api.subscription_fields import (
    MASK,
    MOST_HEADERS,
    Delays,
    Filter,
    Filters,
    HeaderChanges,
    Headers,
    MaxInFlight,
    RateLimit,
    Secret,
    SigningVersions,
    Tenant,
    Text,
    Time,
    TimeoutSeconds,
    Url,
)
from shared.clock import to_datetime
from shared.endpoint_states import QUIET, DisabledReason, EndpointState
from shared.signature import public_key_text
from shared.subscriptions import Changes, NewSubscription, SignatureScheme, SigningVersion, Subscription

_WEEK_S = 7 * 24 * 3600
_DAY_S = 24 * 3600
_READ_ONLY = "Read-only: left out, null or what it is."
_TARGET = "Where events are POSTed; http or https."
_EXAMPLE = {"target_url": "https://example.com/hooks", "secret": "choose-one", "event_types": ["order.*"]}
#: No nulls: FastAPI leaves them out of what it shows, and required fields would be missing.
_ANSWER_EXAMPLE: dict[str, Any] = {
    "id": "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2",
    "target_url": "https://example.com/hooks",
    "event_types": ["order.*"],
    "has_secret": True,
    "signature_scheme": "hub",
    "status": "disabled",
    "disabled_reason": "failing",
    "parked": 7,
    "description": "Orders for the warehouse",
    "tenant": "default",
    "headers": {"Authorization": MASK},
    "signing_versions": ["v1", "v1a"],
    "signing_public_key": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
    "timeout_seconds": 5.0,
    "rate_limit": 20.0,
    "max_in_flight": 4,
    "retry_delays": ["10s", "40s"],
    "endpoint": {
        "breaker": "open",
        "slow": True,
        "reason": "5 failures in a row",
        "since": "2026-01-07T03:04:06.123Z",
        "until": "2026-01-07T03:14:06.123Z",
        "failing_since": "2026-01-02T03:04:06.789Z",
        "last_success_at": "2026-01-02T03:04:05.987Z",
        "last_failure_at": "2026-01-07T03:04:06.012Z",
    },
    "created_at": "2026-01-02T03:04:05.678Z",
    "updated_at": "2026-01-07T03:04:06.345Z",
}
_SECRET_EXAMPLE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the Standard Webhooks specification


def _config(example: Mapping[str, Any]) -> ConfigDict:
    """Unknown fields are refused: a misspelt one would be silently without effect."""
    return ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": dict(example)})


def _patch_schema(schema: dict[str, Any]) -> None:
    """What is left out of a patch has no default: it stays."""
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["example"] = {"event_types": ["order.*", "invoice.paid"], "headers": {"X-Api-Key": "another-one"}}


class _Settings(BaseModel):
    """What everybody who writes a subscription can set."""

    secret: Secret | None = Field(None, description="Verifies incoming events; null: they come unsigned.")
    signature_scheme: SignatureScheme | None = Field(
        "hub", description="How incoming events are signed: `hub` is X-Hub-Signature-256; null: `hub`."
    )
    event_types: Filters | None = Field(
        None, description="Which events, exactly or `order.*`; null or empty: all of them."
    )
    event_type: Filter | None = Field(None, description="The same as a list of one.")
    signing_versions: SigningVersions | None = Field(
        None,
        description="How requests are signed, one signature each: `v1` (HMAC, `signing_secret`), `v1a` (ed25519, "
        "`signing_public_key`), or both; null: `v1`.",
    )
    description: Text | None = Field(None, max_length=500)
    timeout_seconds: TimeoutSeconds | None = Field(None, description="Of one attempt; null: the installation's.")
    rate_limit: RateLimit | None = Field(
        None, description="Attempts a second; null: no limit. Stored now; it takes effect with the delivery lanes."
    )
    max_in_flight: MaxInFlight | None = Field(
        None, description="Attempts under way at once; null: no limit. Stored now; it takes effect with the lanes."
    )
    retry_delays: Delays | None = Field(
        None, description='Some of the configured tiers, such as ["10s", "40s"]; empty: one attempt; null: all.'
    )

    def filters(self) -> tuple[str, ...]:
        """`event_types`, and `event_type` as one more, each once."""
        single = [self.event_type] if self.event_type else []
        return tuple(dict.fromkeys([*(self.event_types or []), *single]))

    def _chosen(self) -> Changes:
        """Everything but the target, the tenant and the headers."""
        return {
            "secret": None if self.secret is None else self.secret.encode(),
            "signature_scheme": self.signature_scheme or "hub",
            "signing_versions": tuple(self.signing_versions or ("v1",)),
            "event_types": self.filters(),
            "description": self.description,
            "timeout_seconds": self.timeout_seconds,
            "rate_limit": self.rate_limit,
            "max_in_flight": self.max_in_flight,
            "retry_delays": None if self.retry_delays is None else tuple(int(delay) for delay in self.retry_delays),
        }


class CreateSubscription(_Settings):
    """A new subscription."""

    model_config = _config(_EXAMPLE)

    target_url: Url = Field(description=_TARGET)
    tenant: Tenant | None = Field(None, description="null: that of the key, else `default`.")
    headers: Headers | None = Field(None, description="Added to every POST. Never shown again.")

    def new_subscription(self, tenant: str) -> NewSubscription:
        """The same in the words of the store, of this tenant."""
        headers = tuple((self.headers or {}).items())
        return replace(NewSubscription(self.target_url, tenant, headers=headers), **self._chosen())


class _AsAnswered(_Settings):
    """With what only an answer says, so that an answer can be changed and sent back."""

    id: Text | None = Field(None, description=_READ_ONLY)
    has_secret: bool | None = Field(None, description=_READ_ONLY)
    signing_public_key: Text | None = Field(None, description=f"{_READ_ONLY} See `signing_versions`.")
    status: Text | None = Field(None, description=f"{_READ_ONLY} See `/pause` and `/resume`.")
    disabled_reason: Text | None = Field(None, description="Read-only: without effect.")
    parked: int | None = Field(None, description="Read-only: without effect.")
    endpoint: dict[str, Any] | None = Field(None, description="Read-only: without effect.")
    created_at: Text | None = Field(None, description="Read-only: without effect.")
    updated_at: Text | None = Field(None, description="Read-only: without effect.")

    def check_read_only(self, current: Subscription) -> None:
        """Raises ValueError: somebody means to change what cannot be changed here."""
        fixed = {
            "id": current.id,
            "has_secret": current.secret is not None,
            "status": current.status,
            "signing_public_key": _public_key(current),
        }
        for name, value in fixed.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(f"{name} is read-only")


class ReplaceSubscription(_AsAnswered):
    """All of a subscription anew: what is left out gets its default, but `secret`, which stays, and `tenant`."""

    model_config = _config(_EXAMPLE)

    target_url: Url = Field(description=_TARGET)
    secret: Secret | None = Field(
        None, description="Verifies incoming events; left out: stays as it is; null: they come unsigned."
    )
    tenant: Tenant | None = Field(None, description="Cannot be changed: left out, null or what it is.")
    headers: Headers | None = Field(
        None, description=f"Added to every POST. A value of `{MASK}` keeps what the header has."
    )

    def changes(self, current: Subscription) -> Changes:
        """What becomes of ``current``. Raises ValueError."""
        self.check_read_only(current)
        headers = _merged({}, dict(current.headers), self.headers or {})
        changes: Changes = {"target_url": self.target_url, "headers": headers, **self._chosen()}
        if "secret" not in self.model_fields_set:
            del changes["secret"]
        return changes


class PatchSubscription(_AsAnswered):
    """A merge patch (RFC 7396): what is left out stays, null is the default, `headers` are merged by name."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_patch_schema)

    target_url: Url = Field(default_factory=str, description=_TARGET)
    secret: Secret | None = Field(
        None, description="Verifies incoming events from now on; null: they come unsigned. `/rotate-secret` overlaps."
    )
    tenant: Tenant | None = Field(None, description="Cannot be changed: left out, null or what it is.")
    headers: HeaderChanges | None = Field(None, description="Null as a value removes that header; null: all of them.")

    def changes(self, current: Subscription) -> Changes:
        """What becomes of ``current``. Raises ValueError."""
        self.check_read_only(current)
        given = set(self.model_fields_set)
        if "event_type" in given:
            given.add("event_types")
        changes = cast(Changes, {name: value for name, value in self._chosen().items() if name in given})
        if "target_url" in given:
            changes["target_url"] = self.target_url
        if "headers" in given:
            before = dict(current.headers)
            changes["headers"] = () if self.headers is None else _merged(before, before, self.headers)
        return changes


def _merged(
    kept: Mapping[str, str], before: Mapping[str, str], given: Mapping[str, str | None]
) -> tuple[tuple[str, str], ...]:
    """``kept`` headers changed by ``given`` ones; names compare without case, and a masked value is the one before.

    Raises ValueError.
    """
    merged = {name.lower(): (name, value) for name, value in kept.items()}
    known = {name.lower(): value for name, value in before.items()}
    for name, value in given.items():
        if value is None:
            merged.pop(name.lower(), None)
        elif value != MASK:
            merged[name.lower()] = (name, value)
        elif name.lower() in known:
            merged[name.lower()] = (name, known[name.lower()])
        else:
            raise ValueError(f"headers: `{MASK}` stands for the value there is, and there is none")
    if len(merged) > MOST_HEADERS:
        raise ValueError(f"headers: more than {MOST_HEADERS}")
    return tuple(merged.values())


class RotateSecret(BaseModel):
    """Fresh keys for outgoing signatures, and perhaps another secret for incoming ones."""

    model_config = _config({"overlap_seconds": _DAY_S})

    overlap_seconds: int = Field(
        _DAY_S, ge=0, le=_WEEK_S, description="How long what was good before stays good. 0: it ends now, all of it."
    )
    secret: Secret | None = Field(None, description="The new secret of incoming events; null: that stays as it is.")


class EndpointAnswer(BaseModel):
    """How the endpoint does, about half a second ago; before anything is known: closed, and nulls."""

    breaker: Literal["closed", "open", "half_open"] = Field(description="`open`: it is not called until `until`.")
    slow: bool = Field(description="It gets less at once, after timeouts, 429 or 503.")
    reason: str | None = Field(description="Why the breaker or the pace is what it is.")
    since: Time | None = Field(description="When that last changed.")
    until: Time | None = Field(description="When an open breaker tries again.")
    failing_since: Time | None = Field(
        description="Nothing but failures since then, counted from the subscription's last change; null: none."
    )
    last_success_at: Time | None
    last_failure_at: Time | None

    @classmethod
    def of(cls, subscription: Subscription, state: EndpointState | None) -> EndpointAnswer:
        quiet = state or QUIET
        return cls(
            breaker=quiet.breaker,
            slow=quiet.slow,
            reason=quiet.reason,
            since=quiet.changed_at,
            until=quiet.open_until,
            failing_since=quiet.counted_since(subscription.status, subscription.updated_at),
            last_success_at=quiet.last_success_at,
            last_failure_at=quiet.last_failure_at,
        )


class SubscriptionAnswer(BaseModel):
    """A subscription without its secrets."""

    model_config = ConfigDict(json_schema_extra={"example": _ANSWER_EXAMPLE})

    id: str
    target_url: str
    event_types: list[str]
    has_secret: bool
    signature_scheme: SignatureScheme
    status: Literal["active", "paused", "disabled"]
    disabled_reason: DisabledReason | None = Field(
        description="`gone`: the endpoint answered 410; `failing`: nothing but failures for too long."
    )
    parked: int | None = Field(
        description="Events kept while it was not active, and not on their way again yet; null: cannot be told now."
    )
    description: str | None
    tenant: str
    headers: dict[str, str] = Field(description=f"Names; the values are `{MASK}`.")
    signing_versions: list[SigningVersion]
    signing_public_key: str | None = Field(
        description="`whpk_…`: verifies the `v1a` signatures of the newest key; null: `v1a` is not asked for."
    )
    timeout_seconds: float | None
    rate_limit: float | None
    max_in_flight: int | None
    retry_delays: list[str] | None
    endpoint: EndpointAnswer | None = Field(description="Null only where it cannot be told now.")
    created_at: Time
    updated_at: Time

    @classmethod
    def of(
        cls,
        subscription: Subscription,
        state: EndpointState | None = None,
        parked: int = 0,
        *,
        told: bool = True,
        **more: Any,
    ) -> SubscriptionAnswer:
        """``state`` None: nothing is known of its endpoint; not ``told``: nobody could be asked."""
        return cls(
            id=subscription.id,
            target_url=subscription.target_url,
            event_types=list(subscription.event_types),
            has_secret=subscription.secret is not None,
            signature_scheme=subscription.signature_scheme,
            status=subscription.status,
            disabled_reason=state.disabled_reason if state and subscription.status == "disabled" else None,
            parked=parked if told else None,
            description=subscription.description,
            tenant=subscription.tenant,
            headers={name: MASK for name, _ in subscription.headers},
            signing_versions=list(subscription.signing_versions),
            signing_public_key=_public_key(subscription),
            timeout_seconds=subscription.timeout_seconds,
            rate_limit=subscription.rate_limit,
            max_in_flight=subscription.max_in_flight,
            retry_delays=_delays(subscription.retry_delays),
            endpoint=EndpointAnswer.of(subscription, state) if told else None,
            created_at=subscription.created_at,
            updated_at=subscription.updated_at,
            **more,
        )


class CreatedSubscription(SubscriptionAnswer):
    """The answer to the creation, with the key of outgoing signatures."""

    model_config = ConfigDict(json_schema_extra={"example": {**_ANSWER_EXAMPLE, "signing_secret": _SECRET_EXAMPLE}})

    signing_secret: str = Field(description="`whsec_…`: verifies the `v1` of `webhook-signature`. Shown this once.")


class RotatedSubscription(CreatedSubscription):
    """The answer to a rotation, with the new key of outgoing signatures."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                **_ANSWER_EXAMPLE,
                "signing_secret": _SECRET_EXAMPLE,
                "previous_signing_secret_expires_at": "2026-01-03T03:04:05.678Z",
                "previous_secret_expires_at": "2026-01-03T03:04:05.678Z",
            }
        }
    )

    previous_signing_secret_expires_at: Time | None = Field(
        description="Until then every request is signed with the keys before as well, of `v1a` too; null: no more."
    )
    previous_secret_expires_at: Time | None = Field(
        description="Until then incoming events may be signed with the secret before; null: there is none."
    )

    @classmethod
    def rotated(
        cls, subscription: Subscription, signing_secret: str, state: EndpointState | None, parked: int, *, told: bool
    ) -> SubscriptionAnswer:
        newest = next(iter(subscription.previous_signing_keys), None)
        return cls.of(
            subscription,
            state,
            parked,
            told=told,
            signing_secret=signing_secret,
            previous_signing_secret_expires_at=_time(newest.until_ms if newest else None),
            previous_secret_expires_at=_time(subscription.previous_secret_until_ms),
        )


def _public_key(subscription: Subscription) -> str | None:
    private_key = subscription.private_keys.current
    return public_key_text(private_key) if private_key and "v1a" in subscription.signing_versions else None


def _time(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else to_datetime(at_ms)


def _delays(delays_s: tuple[int, ...] | None) -> list[str] | None:
    return None if delays_s is None else [f"{delay_s}s" for delay_s in delays_s]
