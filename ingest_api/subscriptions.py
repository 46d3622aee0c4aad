"""Create, list, read, change, pause and delete subscriptions. Plain `def` routes: the Postgres driver blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Query, Response

from ingest_api.event_type import LONGEST
from ingest_api.openapi import problems
from ingest_api.permissions import Caller, Manager, Reader
from ingest_api.problems import Problem, not_found
from ingest_api.subscription_fields import Tenant, Text
from ingest_api.subscription_shapes import (
    CreatedSubscription,
    CreateSubscription,
    PatchSubscription,
    ReplaceSubscription,
    RotatedSubscription,
    RotateSecret,
    SubscriptionAnswer,
)
from ingest_api.target_rules import TargetRules
from shared.endpoint_states import EndpointState
from shared.errors import StoreUnavailable, TooManyKeys
from shared.subscriptions import Changes, Created, ListFilter, NewSubscription, Status, Subscription

_DEEPEST_PAGE = 1_000_000

Skip = Annotated[int, Query(ge=0, le=_DEEPEST_PAGE)]
Limit = Annotated[int, Query(ge=1, le=100)]
WithStatus = Annotated[Status | None, Query(description="Only those in this state.")]
WithTenant = Annotated[Tenant | None, Query(description="Only those of this tenant.")]
WithEventType = Annotated[
    Text | None,
    Query(min_length=1, max_length=LONGEST, description="Only those that get events of this type, or filter by it."),
]
WithTarget = Annotated[
    Text | None, Query(min_length=1, max_length=2048, description="Only those whose target_url begins like this.")
]


class Store(Protocol):
    """The part of SubscriptionStore that is needed here. Raises StoreUnavailable, which is answered 503."""

    def create(self, new: NewSubscription) -> Created: ...
    def get(self, subscription_id: str) -> Subscription | None: ...
    def list(self, skip: int, limit: int, wanted: ListFilter) -> list[Subscription]: ...
    def update(self, subscription_id: str, change: Callable[[Subscription], Changes]) -> Subscription | None: ...
    def set_status(self, subscription_id: str, status: Status) -> Subscription | None: ...
    def rotate(self, subscription_id: str, overlap_s: int, secret: bytes | None) -> Created | None: ...
    def delete(self, subscription_id: str) -> bool: ...
    def parked(self, subscription_ids: Sequence[str]) -> Mapping[str, int]: ...


class Endpoints(Protocol):
    """The part of EndpointStates that is needed here. Raises StoreUnavailable."""

    def of(self, subscription_ids: Sequence[str]) -> Mapping[str, EndpointState]: ...


def router(store: Store, endpoints: Endpoints, rules: TargetRules, tiers_s: tuple[int, ...]) -> APIRouter:
    """The routes under /subscriptions."""
    routes = APIRouter(prefix="/subscriptions", tags=["subscriptions"])
    _add_collection(routes, store, endpoints, rules, tiers_s)
    _add_changes(routes, store, endpoints, rules, tiers_s)
    _add_states(routes, store, endpoints)
    return routes


def _add_collection(
    routes: APIRouter, store: Store, endpoints: Endpoints, rules: TargetRules, tiers_s: tuple[int, ...]
) -> None:
    @routes.post("", status_code=201, response_model=CreatedSubscription, responses=problems(400, 413, 415, 422, 429))
    def create(body: CreateSubscription, caller: Manager) -> SubscriptionAnswer:
        """Create a subscription. No later answer shows this `signing_secret`."""
        tenant = caller.tenant_for(body.tenant)
        _check(body, rules, tiers_s)
        created = store.create(body.new_subscription(tenant))
        return CreatedSubscription.of(created.subscription, signing_secret=created.signing_secret)

    @routes.get("", responses=problems(422))
    def list_all(
        caller: Reader,
        skip: Skip = 0,
        limit: Limit = 100,
        status: WithStatus = None,
        tenant: WithTenant = None,
        event_type: WithEventType = None,
        target_url: WithTarget = None,
    ) -> list[SubscriptionAnswer]:
        """The oldest first."""
        if tenant is not None and not caller.sees(tenant):
            return []
        wanted = ListFilter(status, tenant or caller.tenant, event_type, target_url)
        page = store.list(skip, limit, wanted)
        ids = [one.id for one in page]
        states, parked = endpoints.of(ids), store.parked(ids)
        return [SubscriptionAnswer.of(one, states.get(one.id), parked.get(one.id, 0)) for one in page]

    @routes.get("/{subscription_id}", responses=problems(404))
    def read(subscription_id: str, caller: Reader) -> SubscriptionAnswer:
        """One subscription, and how its endpoint does."""
        found = find(store, subscription_id, caller)
        states, parked = endpoints.of([found.id]), store.parked([found.id])
        return SubscriptionAnswer.of(found, states.get(found.id), parked.get(found.id, 0))

    @routes.delete("/{subscription_id}", status_code=204, response_class=Response, responses=problems(404, 415))
    def delete(subscription_id: str, caller: Manager) -> Response:
        """Delete it. Its history stays; what is queued or parked for it ends as cancelled."""
        find(store, subscription_id, caller)  # a subscription never changes its tenant
        if not store.delete(subscription_id):
            raise not_found("subscription")
        return Response(status_code=204)


def _add_changes(
    routes: APIRouter, store: Store, endpoints: Endpoints, rules: TargetRules, tiers_s: tuple[int, ...]
) -> None:
    @routes.put("/{subscription_id}", responses=problems(400, 404, 413, 415, 422))
    def replace(subscription_id: str, body: ReplaceSubscription, caller: Manager) -> SubscriptionAnswer:
        """Replace it: what is left out gets its default, but `secret`, which stays; null clears it."""
        find(store, subscription_id, caller)
        _check(body, rules, tiers_s)
        return _answer(store, endpoints, store.update(subscription_id, lambda current: _changes(body, current)))

    @routes.patch("/{subscription_id}", responses=problems(400, 404, 413, 415, 422))
    def change(subscription_id: str, body: PatchSubscription, caller: Manager) -> SubscriptionAnswer:
        """Change what is given (a JSON merge patch); changes at once do not lose each other's fields."""
        find(store, subscription_id, caller)
        _check(body, rules, tiers_s)
        return _answer(store, endpoints, store.update(subscription_id, lambda current: _changes(body, current)))


def _add_states(routes: APIRouter, store: Store, endpoints: Endpoints) -> None:
    @routes.post("/{subscription_id}/pause", responses=problems(404, 415))
    def pause(subscription_id: str, caller: Manager) -> SubscriptionAnswer:
        """Stop delivering. Events are still accepted, and kept in the topic `parked` until it is resumed."""
        find(store, subscription_id, caller)
        return _answer(store, endpoints, store.set_status(subscription_id, "paused"))

    @routes.post("/{subscription_id}/resume", responses=problems(404, 415))
    def resume(subscription_id: str, caller: Manager) -> SubscriptionAnswer:
        """Deliver what comes in from now on, and after a moment what was parked, in its order."""
        find(store, subscription_id, caller)
        return _answer(store, endpoints, store.set_status(subscription_id, "active"))

    @routes.post(
        "/{subscription_id}/rotate-secret",
        response_model=RotatedSubscription,
        responses=problems(400, 404, 409, 413, 415, 422),
    )
    def rotate(subscription_id: str, caller: Manager, body: RotateSecret | None = None) -> SubscriptionAnswer:
        """A fresh `signing_secret`, shown this once, and with `v1a` a fresh `signing_public_key`. For the overlap,
        requests carry the signatures of the keys before as well; a new `secret` for incoming events, if given,
        overlaps too."""
        find(store, subscription_id, caller)
        wanted = body or RotateSecret()
        secret = None if wanted.secret is None else wanted.secret.encode()
        try:
            created = store.rotate(subscription_id, wanted.overlap_seconds, secret)
        except TooManyKeys:
            detail = "Rotated too often: wait until an earlier key runs out, or end them all with overlap_seconds 0."
            raise Problem(409, "too_many_keys", detail) from None
        if created is None:
            raise not_found("subscription")
        state, parked, told = _state(store, endpoints, created.subscription)
        return RotatedSubscription.rotated(created.subscription, created.signing_secret, state, parked, told=told)


def find(store: Store, subscription_id: str, caller: Caller) -> Subscription:
    """The subscription, or Problem 404: another tenant's is as unknown as none."""
    found = store.get(subscription_id)
    if found is None or not caller.sees(found.tenant):
        raise not_found("subscription")
    return found


def _answer(store: Store, endpoints: Endpoints, subscription: Subscription | None) -> SubscriptionAnswer:
    if subscription is None:
        raise not_found("subscription")
    state, parked, told = _state(store, endpoints, subscription)
    return SubscriptionAnswer.of(subscription, state, parked, told=told)


def _state(store: Store, endpoints: Endpoints, changed: Subscription) -> tuple[EndpointState | None, int, bool]:
    """How the endpoint of what was just changed does, how many events are parked, and whether that could be told.

    The change stands either way.
    """
    try:
        return endpoints.of([changed.id]).get(changed.id), store.parked([changed.id]).get(changed.id, 0), True
    except StoreUnavailable:
        return None, 0, False


def _changes(body: ReplaceSubscription | PatchSubscription, current: Subscription) -> Changes:
    if body.tenant not in (None, current.tenant):
        raise Problem(422, "tenant_fixed", "The tenant of a subscription cannot be changed.")
    try:
        return body.changes(current)
    except ValueError as error:
        raise Problem(422, "invalid_request", f"{error}.") from None


def _check(
    body: CreateSubscription | ReplaceSubscription | PatchSubscription, rules: TargetRules, tiers_s: tuple[int, ...]
) -> None:
    if "target_url" in body.model_fields_set:
        _check_target(body.target_url, rules)
    if not set(body.retry_delays or ()) <= set(tiers_s):
        tiers = ", ".join(f"{delay_s}s" for delay_s in tiers_s)
        raise Problem(422, "retry_delays_unknown", f"retry_delays are some of the configured tiers: {tiers}.")


def _check_target(url: str, rules: TargetRules) -> None:
    try:
        rules.check(url)
    except ValueError as error:
        raise Problem(422, "target_url_refused", f"target_url {error}.") from None
