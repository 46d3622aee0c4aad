"""The schema of a version that does not exist yet: there and back. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config

import deploy.migrations
from deploy.migrate import _config, _connected
from shared.database import psycopg2_url

#: As Alembic names it.
REVISION = "9999_next"
_OURS = Path(deploy.migrations.__path__[0]) / "versions"
_NEWER = Path(__file__).with_name("newer_versions")


def upgrade(database_url: str) -> None:
    """What the newer version's migration does."""
    with _newer(database_url) as config:
        command.upgrade(config, "head")


def downgrade(database_url: str) -> None:
    """Back to ours."""
    with _newer(database_url) as config:
        command.downgrade(config, "-1")


@contextmanager
def _newer(database_url: str) -> Iterator[Config]:
    with _connected(psycopg2_url(database_url)) as connection:
        config = _config(connection)
        config.set_main_option("version_locations", f"{_OURS}:{_NEWER}".replace("%", "%%"))
        yield config
