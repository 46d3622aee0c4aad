"""GET /metrics: what this process counts, for Prometheus. The other processes show theirs on their health port."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from ingest_api.openapi import problems
from ingest_api.permissions import Reader
from shared.metrics import exposition


def router() -> APIRouter:
    """The one route. In a thread, because it takes a millisecond."""
    routes = APIRouter(tags=["health"])

    @routes.get("/metrics", response_class=PlainTextResponse, responses=problems(403))
    def metrics(caller: Reader) -> Response:
        """Counters of all tenants together, in Prometheus' text format: a key of one tenant does not see them."""
        caller.check_tenant(None)
        body, content_type = exposition()
        return Response(body, headers={"Content-Type": content_type})

    return routes
