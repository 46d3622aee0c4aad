"""POST /point1: a receiver for first steps. Served while DEV_RECEIVER; takes everything and keeps nothing."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ingest_api.openapi import problems
from ingest_api.permissions import requires
from ingest_api.request_body import read_body


def router(most_body_bytes: int) -> APIRouter:
    """One route."""
    routes = APIRouter(tags=["development"], dependencies=[requires("open")])

    @routes.post("/point1", status_code=202, response_class=Response, responses=problems(403, 413))
    async def receive(request: Request) -> Response:
        """A built-in receiver (DEV_RECEIVER): any body, an empty 202."""
        await read_body(request, most_body_bytes)
        return Response(status_code=202)

    return routes
