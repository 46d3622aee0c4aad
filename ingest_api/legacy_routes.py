"""The paths of earlier services of this kind: each is a line onto a handler of ours and a change of words.

Not offered on purpose: what wiped the database, what passed by the signature, and what took a secret to sign with.
Their lists had no bounds; here they are the newest 20 or 1,000. Included before the routes under /subscriptions and
/logs: `getsubscriptions` would be an id there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.responses import RedirectResponse

from ingest_api import legacy_shapes as old
from ingest_api.openapi import problems
from ingest_api.permissions import Caller, Manager, Reader, requires
from ingest_api.problems import Problem
from ingest_api.status_shapes import AttemptAnswer
from ingest_api.subscription_shapes import CreateSubscription, PatchSubscription, SubscriptionAnswer
from shared.attempt_log import AttemptLog
from shared.log_query import LogFilter

#: What stands behind a route: our handlers by their names.
Handlers = Mapping[str, Callable[..., Any]]

_OF_ONE = 20
_OF_ALL = 1_000
_PAGE = 100
_TO_DOCS: dict[int | str, dict[str, Any]] = {
    307: {"headers": {"Location": {"description": "`/docs`", "schema": {"type": "string"}}}}
}
_REFUSALS = problems(400, 404, 413, 415, 422)


def handlers_of(*routers: APIRouter) -> Handlers:
    """The functions behind these routes."""
    return {route.name: route.endpoint for one in routers for route in one.routes}  # type: ignore[attr-defined]


def router(ours: Handlers, log: AttemptLog) -> APIRouter:
    """All of them, each marked deprecated."""
    routes = APIRouter(tags=["earlier services"], deprecated=True)
    _add_service_0(routes, ours, log)
    _add_logs_of_one(routes, ours, log)
    _add_service_3(routes, ours, log)
    return routes


def _add_service_0(routes: APIRouter, ours: Handlers, log: AttemptLog) -> None:
    @routes.post("/urldata", status_code=201, responses=problems(400, 413, 415, 422))
    def create_url(body: old.UrlData, caller: Manager) -> old.UrlDataAnswer:
        """`POST /subscriptions/`"""
        return old.UrlDataAnswer.of(ours["create"](CreateSubscription(target_url=body.url, secret=body.secret), caller))

    @routes.get("/urldata/{u_id}", responses=problems(404))
    def read_url(u_id: str, caller: Reader) -> old.UrlDataAnswer:
        """`GET /subscriptions/{id}`"""
        return old.UrlDataAnswer.of(ours["read"](u_id, caller))

    @routes.put("/urldata/{u_id}", responses=_REFUSALS)
    def change_url(u_id: str, body: old.NewUrl, caller: Manager) -> old.UrlDataAnswer:
        """`PATCH /subscriptions/{id}`"""
        return old.UrlDataAnswer.of(ours["change"](u_id, PatchSubscription(target_url=body.new_url), caller))

    @routes.delete("/urldata/{u_id}", responses=problems(404, 415))
    def delete_url(u_id: str, caller: Manager) -> old.Message:
        """`DELETE /subscriptions/{id}`"""
        ours["delete"](u_id, caller)
        return old.Message(message="Deleted successfully")

    @routes.get("/status/delivery/{delivery_id}", responses=problems(404), response_model_exclude_none=True)
    async def delivery_logs(delivery_id: str, caller: Reader) -> list[old.Log0]:
        """`GET /status/{webhook_id}`: its attempts, the oldest first."""
        return [old.Log0.of(one) for one in (await ours["status"](delivery_id, caller)).attempts]

    @routes.get("/status/subscription/{subscription_id}", responses=problems(404), response_model_exclude_none=True)
    def subscription_logs(subscription_id: str, caller: Reader) -> list[old.Log0]:
        """`GET /subscriptions/{id}/logs`: the newest 20, the oldest of them first."""
        return [old.Log0.of(row) for row in reversed(_of_one(ours, log, subscription_id, caller))]

    @routes.get("/status/logs/all", response_model_exclude_none=True)
    def every_log(caller: Reader) -> dict[str, list[old.Log0]]:
        """`GET /logs/`: the newest 1,000 by delivery and by subscription, the oldest first."""
        return old.logs_0(reversed(_newest(log, _OF_ALL, LogFilter(tenant=caller.tenant))))


def _add_logs_of_one(routes: APIRouter, ours: Handlers, log: AttemptLog) -> None:
    @routes.get("/subscriptions/{subscription_id}/deliveries", responses=problems(404))
    def deliveries(subscription_id: str, caller: Reader) -> list[old.Log2]:
        """`GET /subscriptions/{id}/logs`: the newest 20."""
        return [old.Log2.of(row) for row in _of_one(ours, log, subscription_id, caller)]

    @routes.get("/logs/deliverylogs")
    def newest_deliveries(caller: Reader) -> list[old.Log3]:
        """`GET /logs/`: the newest 1,000."""
        return [old.Log3.of(row) for row in _newest(log, _OF_ALL, LogFilter(tenant=caller.tenant))]

    @routes.get("/logs/{subscription_id}", responses=problems(404))
    def logs_by_subscription(subscription_id: str, caller: Reader) -> list[old.Log1]:
        """`GET /subscriptions/{id}/logs`: the newest 20."""
        return [old.Log1.of(row) for row in _of_one(ours, log, subscription_id, caller)]


def _add_service_3(routes: APIRouter, ours: Handlers, log: AttemptLog) -> None:
    @routes.post("/subscriptions/createsubscription", status_code=201, responses=problems(400, 413, 415, 422))
    def create_subscription(body: old.CreateBody, caller: Manager) -> old.Subscription3:
        """`POST /subscriptions/`"""
        return old.Subscription3.of(ours["create"](CreateSubscription(target_url=body.url, secret=body.secret), caller))

    @routes.get("/subscriptions/getsubscriptions")
    def get_subscriptions(caller: Reader) -> list[old.Subscription3]:
        """`GET /subscriptions/`: the first 1,000."""
        return [old.Subscription3.of(one) for one in _first(_OF_ALL, partial(ours["list_all"], caller))]

    @routes.put("/subscriptions/updatesubscription", responses=_REFUSALS)
    def update_subscription(body: old.UpdateBody, caller: Manager) -> old.Updated3:
        """`PATCH /subscriptions/{id}`"""
        changed = ours["change"](_id(body.id), PatchSubscription(**body.changes()), caller)
        return old.Updated3(message="Subscription updated successfully", data=old.Subscription3.of(changed))

    @routes.delete("/subscriptions/deletesubscription", responses=_REFUSALS)
    def delete_subscription(caller: Manager, body: old.DeleteBody | None = None) -> old.Message:
        """`DELETE /subscriptions/{id}`"""
        ours["delete"](_id(body.id if body else None), caller)
        return old.Message(message="Subscription deleted successfully")

    @routes.get("/ping", dependencies=[requires("read")])
    def ping() -> old.Ping:
        """`GET /health`"""
        return old.Ping(database={"tables": log.tables()})

    @routes.get(
        "/api/docs",
        status_code=307,
        response_class=RedirectResponse,
        responses=_TO_DOCS,
        dependencies=[requires("open")],
    )
    def documentation() -> str:
        """`GET /docs`"""
        return "/docs"


def _newest(log: AttemptLog, limit: int, wanted: LogFilter) -> list[AttemptAnswer]:
    return [AttemptAnswer.of(row) for row in log.newest(0, limit, wanted)]


def _of_one(ours: Handlers, log: AttemptLog, subscription_id: str, caller: Caller) -> list[AttemptAnswer]:
    """The newest 20 attempts of a subscription that the caller sees, the newest first. Raises Problem 404."""
    found: SubscriptionAnswer = ours["read"](subscription_id, caller)
    return _newest(log, _OF_ONE, LogFilter(subscription_id=found.id, tenant=caller.tenant))


def _first(most: int, list_page: Callable[[int, int], list[SubscriptionAnswer]]) -> list[SubscriptionAnswer]:
    """Page by page, as our own route gives them."""
    found: list[SubscriptionAnswer] = []
    while len(found) < most and (page := list_page(len(found), _PAGE)):
        found += page
    return found


def _id(given: str | int | None) -> str:
    """A number is nobody's id, and so is 404. Raises Problem 400: none was given."""
    if given is None:
        raise Problem(400, "id_missing", "The body names no id.")
    return str(given)
