"""Every route × every role × own, foreign and no tenant, against one table.

A new route fails here until it stands in TABLE: with what it needs, what its path names, and a body where it takes one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import httpx
import pytest

from ingest_api.app import create_app
from ingest_api.permissions import DOCUMENTATION, ROLES, Permission, declared
from shared.api_keys import Role
from shared.attempt_records import Attempt
from shared.attempt_rows import LogRow, Progress, row_of_attempt, row_of_delivery
from shared.attempt_writer import AttemptWriter
from shared.kafka import ensure_topics
from shared.record_ids import new_webhook_id
from shared.records import Delivery, Source
from tests.api.conftest import Api, running_api
from tests.api.test_ingest import problem
from tests.api.test_keys import ADMIN, bearer, create_key, subscribe
from tests.conftest import FreshSettings, delete_topics

OWN, FOREIGN = "acme", "other"
NOBODYS = "0190d1c2-7b1a-7cc3-98c4-d7e8f9a0b1c2"
TARGET = {"target_url": "https://example.com/hook"}
OLD_TARGET = {"url": "https://example.com/hook"}


@dataclass(frozen=True)
class Case:
    """What a route needs, and how it is asked for something of the tenant OWN."""

    needs: Permission
    #: What the first name in the path is the id of.
    names: Literal["subscription", "event", "key"] | None = None
    body: dict[str, Any] | None = None
    #: In place of `names`: the body's member that holds the id.
    id_in_body: str | None = None
    #: A list: it holds OWN's thing for whoever may see that tenant, and for nobody else.
    lists: Literal["subscription", "event", "key"] | None = None
    #: The body names the tenant: another one's is 403 instead of 404.
    makes: bool = False
    #: It tells of all tenants together: a key of one does not see it.
    of_all: bool = False
    headers: dict[str, str] = field(default_factory=dict)


#: The one table. Paths as in the OpenAPI document.
TABLE: dict[str, Case] = {
    "GET /health": Case("open"),
    "GET /live": Case("open"),
    "GET /ready": Case("open"),
    "GET /metrics": Case("read", of_all=True),
    "POST /point1": Case("open", body={}),
    "POST /ingest/{subscription_id}": Case("ingest", "subscription", body={}),
    "POST /events": Case("publish", body={"event_type": "t", "payload": {}, "tenant": OWN}, makes=True),
    "POST /subscriptions/": Case("manage", body={**TARGET, "tenant": OWN}, makes=True),
    "GET /subscriptions/": Case("read", lists="subscription"),
    "GET /subscriptions/{subscription_id}": Case("read", "subscription"),
    "DELETE /subscriptions/{subscription_id}": Case("manage", "subscription"),
    "PUT /subscriptions/{subscription_id}": Case("manage", "subscription", body=TARGET),
    "PATCH /subscriptions/{subscription_id}": Case("manage", "subscription", body=TARGET),
    "POST /subscriptions/{subscription_id}/pause": Case("manage", "subscription"),
    "POST /subscriptions/{subscription_id}/resume": Case("manage", "subscription"),
    "POST /subscriptions/{subscription_id}/rotate-secret": Case("manage", "subscription"),
    "POST /subscriptions/{subscription_id}/test": Case("manage", "subscription"),
    "GET /subscriptions/{subscription_id}/logs": Case("read", "subscription"),
    "GET /status/{webhook_id}": Case("read", "event"),
    "GET /webhooks/{webhook_id}/payload": Case("read", "event"),
    "GET /logs/": Case("read", lists="event"),
    "POST /keys/": Case("admin", body={"role": "read", "tenant": OWN}, makes=True),
    "GET /keys/": Case("admin", lists="key"),
    "DELETE /keys/{key_id}": Case("admin", "key"),
    # Earlier services' paths.
    "POST /urldata/": Case("manage", body=OLD_TARGET),
    "GET /urldata/{u_id}": Case("read", "subscription"),
    "PUT /urldata/{u_id}": Case("manage", "subscription", body={"new_url": "https://example.com/new"}),
    "DELETE /urldata/{u_id}": Case("manage", "subscription"),
    "GET /status/delivery/{delivery_id}": Case("read", "event"),
    "GET /status/subscription/{subscription_id}": Case("read", "subscription"),
    "GET /status/logs/all": Case("read", lists="event"),
    "GET /subscriptions/{subscription_id}/deliveries": Case("read", "subscription"),
    "GET /logs/{subscription_id}": Case("read", "subscription"),
    "GET /logs/deliverylogs": Case("read", lists="event"),
    "GET /subscriptions/getsubscriptions": Case("read", lists="subscription"),
    "POST /subscriptions/createsubscription": Case("manage", body=OLD_TARGET),
    "PUT /subscriptions/updatesubscription": Case("manage", body=OLD_TARGET, id_in_body="id"),
    "DELETE /subscriptions/deletesubscription": Case("manage", id_in_body="id"),
    "GET /ping": Case("read"),
    "GET /api/docs/": Case("open"),
}
#: Not in the document.
PLAIN: dict[str, Permission] = {"GET /": "open", "HEAD /": "open"}

#: What each role may do.
MAY: dict[Role, set[Permission]] = {
    "publish": {"open", "ingest", "publish"},
    "read": {"open", "read"},
    "manage": {"open", "read", "manage"},
    "admin": {"open", "ingest", "publish", "read", "manage", "admin"},
}


@dataclass(frozen=True)
class Stage:
    """The API, and keys by role and tenant."""

    api: Api
    keys: dict[tuple[Role, str | None], str]
    #: One of each kind, of OWN, which stay: for lists and reads.
    own: dict[str, str]

    async def ask(self, route: str, key: str | None, id_: str | None) -> httpx.Response:
        case, (method, path) = TABLE[route], route.split(" ")
        headers = case.headers | (bearer(key) if key else {})
        if case.names and id_:
            before, _, rest = path.partition("{")
            path = before + id_ + rest.partition("}")[2]
        body = None if case.body is None else dict(case.body)
        if case.id_in_body:
            body = {**(body or {}), case.id_in_body: id_}
        return await self.api.client.request(method, path, json=body, headers=headers)

    async def fresh(self, case: Case) -> str | None:
        """The id of something of OWN that this route may use up."""
        match case.names or (case.id_in_body and "subscription"):
            case "subscription":
                return str((await subscribe(self.api, tenant=OWN))["id"])
            case "key":
                return str((await create_key(self.api, "read", tenant=OWN))["id"])
            case "event":
                return self.own["event"]
            case _:
                return None


@pytest.fixture(scope="module")
async def stage(fresh_settings: FreshSettings) -> AsyncIterator[Stage]:
    """A database of its own, whose attempt log is complete as far as its readers can tell."""
    settings = fresh_settings(admin_api_key=ADMIN, dev_receiver=True)
    await ensure_topics(settings)
    async with running_api(settings) as api:
        subscription = (await subscribe(api, tenant=OWN))["id"]
        own = {"subscription": subscription, "event": await _logged_event(api, subscription)}
        own["key"] = (await create_key(api, "read", tenant=OWN))["id"]
        keys = {
            (role, tenant): str((await create_key(api, role, tenant=tenant))["key"])
            for role in get_args(Role)
            for tenant in (OWN, FOREIGN, None)
        }
        yield Stage(api, keys, own)
    await delete_topics(settings)


async def _logged_event(api: Api, subscription_id: str, *, seen: bool = True) -> str:
    """An event of OWN in `deliveries` and in the attempt log, which says that it has ``seen`` everything."""
    now_ms, topics = time.time_ns() // 1_000_000, api.settings.topics
    delivery = Delivery(new_webhook_id(), subscription_id, b"{}", now_ms, tenant=OWN)
    source = await api.parts.producer.send(delivery.to_record(topics.deliveries))
    attempt = Attempt(
        kind="attempt",
        webhook_id=delivery.webhook_id,
        subscription_id=subscription_id,
        run=1,
        attempt=1,
        accepted_ms=now_ms,
        attempted_ms=now_ms,
        outcome="succeeded",
        tenant=OWN,
        source=str(source),
    )
    rows = [row_of_delivery(delivery, source), row_of_attempt(attempt, Source(topics.attempts, 0, 0))]
    assert all(isinstance(row, LogRow) for row in rows)
    progress = [Progress(topics.deliveries, 0, 1, now_ms + 86_400_000)] if seen else []
    AttemptWriter(api.parts.database).write_batch([row for row in rows if row], progress)
    return delivery.webhook_id


def _normal(route: str) -> str:
    method, path = route.split(" ")
    return f"{method} {path.rstrip('/') or '/'}"


async def test_the_table_is_complete_and_says_what_the_routes_declare(stage: Stage) -> None:
    """A route that is not in TABLE fails here, and so does an entry without a route."""
    app = create_app(stage.api.settings, stage.api.parts)
    described = {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}
    assert described == TABLE.keys()
    declarations = {
        f"{method} {path}": permission
        for (method, path), permission in declared(app).items()
        if path not in DOCUMENTATION
    }
    wanted = {_normal(route): case.needs for route, case in TABLE.items()}
    assert {_normal(route): permission for route, permission in declarations.items()} == wanted | PLAIN


def test_the_roles_are_those_of_the_table() -> None:
    assert {role: set(permissions) for role, permissions in ROLES.items()} == MAY


@pytest.mark.parametrize("tenant", [OWN, FOREIGN, None])
@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("route", TABLE)
async def test_every_route_answers_each_role_and_tenant_as_the_table_says(
    stage: Stage, route: str, role: Role, tenant: str | None
) -> None:
    case, key = TABLE[route], stage.keys[role, tenant]
    answer = await stage.ask(route, key, await stage.fresh(case))
    has_id, foreign = bool(case.names or case.id_in_body), tenant == FOREIGN
    if case.needs not in MAY[role] and not (case.needs == "ingest" and foreign):
        problem(answer, 403, "role_missing")
    elif (foreign and case.makes) or (case.of_all and tenant is not None):
        problem(answer, 403, "tenant_refused")
    elif foreign and has_id:
        problem(answer, 404, "not_found")
        unknown = await stage.ask(route, key, NOBODYS)
        assert (unknown.status_code, unknown.content) == (404, answer.content)
        assert unknown.headers.keys() == answer.headers.keys()
    else:
        assert answer.status_code < 400, answer.text
    if case.lists and answer.is_success and tenant is not None:
        assert (stage.own[case.lists] in answer.text) is not foreign
    if foreign and case.needs != "open":
        assert OWN not in answer.text


@pytest.mark.parametrize("route", TABLE)
async def test_without_a_key_every_route_is_closed_but_the_open_ones(stage: Stage, route: str) -> None:
    case = TABLE[route]
    answer = await stage.ask(route, None, await stage.fresh(case))
    if case.needs == "open":
        assert answer.status_code < 400
    else:
        problem(answer, 401, "key_required")


@pytest.mark.parametrize("route", [route for route, case in TABLE.items() if case.names])
async def test_a_foreign_id_takes_no_longer_than_an_unknown_one(stage: Stage, route: str) -> None:
    """Within what a shared machine can tell: both are one look-up."""
    key = stage.keys["admin", FOREIGN]
    foreign_id = stage.own[str(TABLE[route].names)]
    took_s: dict[str, float] = {}
    for id_ in (foreign_id, NOBODYS, foreign_id, NOBODYS, foreign_id, NOBODYS):
        began_s = time.perf_counter()
        problem(await stage.ask(route, key, id_), 404, "not_found")
        took_s[id_] = min(took_s.get(id_, 9.9), time.perf_counter() - began_s)
    assert abs(took_s[foreign_id] - took_s[NOBODYS]) < 0.25
    assert str(uuid.UUID(foreign_id)) == foreign_id


@pytest.mark.parametrize("path", ["/status/{}", "/status/delivery/{}", "/webhooks/{}/payload"])
async def test_an_event_of_a_moment_ago_is_404_for_another_tenant(fresh_settings: FreshSettings, path: str) -> None:
    """Accepted here, or elsewhere and in the log, while the sink has not said that it has seen everything."""
    settings = fresh_settings(admin_api_key=ADMIN)
    await ensure_topics(settings)
    async with running_api(settings) as api:
        own, foreign = [bearer((await create_key(api, "admin", tenant=tenant))["key"]) for tenant in (OWN, FOREIGN)]
        subscription = (await subscribe(api, tenant=OWN))["id"]
        sent = await api.client.post(f"/ingest/{subscription}", content=b"{}", headers=own)
        for webhook_id in (sent.json()["webhook_id"], await _logged_event(api, subscription, seen=False)):
            assert (await api.client.get(f"/status/{webhook_id}", headers=own)).status_code == 200
            problem(await api.client.get(path.format(webhook_id), headers=foreign), 404, "not_found")
    await delete_topics(settings)
