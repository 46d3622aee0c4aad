"""create_app(): routes, errors, what runs while the server runs. A table of contents."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest_api import (
    attempt_logs,
    health,
    keys,
    legacy_routes,
    metrics,
    openapi,
    payloads,
    permissions,
    problems,
    receiver,
    sample_event,
    status,
    subscriptions,
)
from ingest_api.auth import Gate, Gated
from ingest_api.events import Events, EventsIO
from ingest_api.fan_out_budget import FanOutBudget
from ingest_api.hot_route import HotRoute, subscription_id_in
from ingest_api.ingest import Ingest, IngestIO
from ingest_api.methods import HeadToo, methods_of
from ingest_api.parts import Parts
from ingest_api.target_rules import rules_of
from shared.settings import Settings

#: FastAPI's own telemetry looks at bodies and validated values: ours says what we want said.
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def create_app(settings: Settings, parts: Parts) -> FastAPI:
    """The whole API over ``parts``, which are running."""
    app = Api(
        title="Hooklog",
        version=health.VERSION,
        description="Webhooks delivered from a Kafka log. Errors are problem+json (RFC 9457).",
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
        telemetry=_NO_TELEMETRY,
    )
    ingest = _ingest(settings, parts)
    plain = permissions.plain("ingest", ingest.post)
    app.add_route("/ingest/{subscription_id}", plain, methods=["POST"], include_in_schema=False)
    events = permissions.plain("publish", _events(settings, parts).post)
    app.add_route("/events", events, methods=["POST"], include_in_schema=False)
    _include_routes(app, settings, parts)
    app.include_router(health.router(parts.watch))
    app.include_router(metrics.router())
    app.add_route("/", permissions.plain("open", _to_docs), include_in_schema=False)
    if settings.dev_receiver:
        app.include_router(receiver.router(settings.max_payload_bytes))
    declared = permissions.declared(app)
    problems.install(app, methods_of(declared))
    key = settings.admin_api_key.get_secret_value()
    openapi.install(app, keys_asked=bool(key), most_body_bytes=settings.max_payload_bytes)
    open_paths = {path for (_, path), permission in declared.items() if permission == "open"}
    gate = Gate(admin_api_key=key, keys=parts.keys, open_paths=open_paths)
    app.add_middleware(Gated, gate=gate)
    app.add_middleware(HeadToo)
    app.add_middleware(EitherSlash)
    app.hot = HotRoute(gate, ingest)
    return app


def _include_routes(app: FastAPI, settings: Settings, parts: Parts) -> None:
    """The earlier services' come first: their `/subscriptions/getsubscriptions` would be an id in ours."""
    reader = status.StatusReader(parts.attempt_log, parts.recent, parts.clock)
    managed = subscriptions.router(parts.store, parts.endpoints, rules_of(settings), settings.retry_delays)
    state = status.router(reader)
    app.include_router(legacy_routes.router(legacy_routes.handlers_of(managed, state), parts.attempt_log))
    app.include_router(managed)
    app.include_router(sample_event.router(parts.store, _sample_io(settings, parts)))
    app.include_router(state)
    app.include_router(attempt_logs.router(parts.attempt_log, parts.store))
    app.include_router(keys.router(parts.key_store, parts.keys))
    app.include_router(payloads.router(reader, payloads.LogReader(settings), settings.topics))


class Api(FastAPI):
    """FastAPI, with one way round what it wraps around its routes."""

    hot: HotRoute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        subscription_id = subscription_id_in(scope)
        if subscription_id is None:
            await super().__call__(scope, receive, send)
        else:
            await self.hot.post(subscription_id, scope, receive, send)


class EitherSlash:
    """ASGI middleware: ``/path/`` is ``/path``, without a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1:
            scope["path"] = scope["path"].removesuffix("/")
        await self._app(scope, receive, send)


def _ingest(settings: Settings, parts: Parts) -> Ingest:
    return Ingest(
        IngestIO(
            subscriptions=parts.subscriptions,
            producer=parts.producer,
            recent=parts.recent,
            idempotency=parts.idempotency,
            clock=parts.clock,
            deliveries_topic=settings.topics.deliveries,
            ack_timeout_s=settings.ack_timeout_seconds,
            most_body_bytes=settings.max_payload_bytes,
        )
    )


def _sample_io(settings: Settings, parts: Parts) -> sample_event.SampleIO:
    return sample_event.SampleIO(
        producer=parts.producer,
        recent=parts.recent,
        clock=parts.clock,
        deliveries_topic=settings.topics.deliveries,
        ack_timeout_s=settings.ack_timeout_seconds,
        most_body_bytes=settings.max_payload_bytes,
    )


def _events(settings: Settings, parts: Parts) -> Events:
    return Events(
        EventsIO(
            tenants=parts.subscriptions,
            producer=parts.producer,
            recent=parts.recent,
            budget=FanOutBudget(settings.max_fanout_bytes_per_second),
            idempotency=parts.idempotency,
            clock=parts.clock,
            events_topic=settings.topics.events,
            ack_timeout_s=settings.ack_timeout_seconds,
            most_body_bytes=settings.max_payload_bytes,
        )
    )


async def _to_docs(_request: object) -> RedirectResponse:
    return RedirectResponse("/docs", 307)
