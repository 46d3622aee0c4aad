"""What stands in Postgres, asked past everything of ours."""

from __future__ import annotations

from typing import Any

import psycopg2

from shared.settings import Settings

_CONNECT_WITHIN_S = 3


def rows(settings: Settings, query: str, *values: object) -> list[tuple[Any, ...]]:
    """All that the query finds, on a connection of its own. Raises psycopg2.Error."""
    url = settings.database_url.get_secret_value()
    connection = psycopg2.connect(url, connect_timeout=_CONNECT_WITHIN_S)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found
    finally:
        connection.close()
