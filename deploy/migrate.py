"""Bring a database to the newest schema. Safe to run by several processes at once, and again."""

from __future__ import annotations

import re
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import NullPool

from shared.database import one_line, psycopg2_url
from shared.errors import StoreUnavailable
from shared.tables import LOCK_MIGRATIONS

_CONNECT_TIMEOUT_S = 3
#: Another process that migrates may hold the lock this long.
_LOCK_TIMEOUT_S = 120
_NO_SUCH_DATABASE = re.compile(r'database ".*" does not exist')


def migrate(database_url: str) -> str | None:
    """Create the database when it is missing, then every migration that it lacks.

    A newer version may have been here: then its schema stays as it is, since what an older version needs is in it, and
    its revision is given.

    Raises StoreUnavailable when Postgres cannot be reached, ConfigurationError when the URL is none. Each migration is
    a transaction: after a failure the schema is at the last one that succeeded.
    """
    url = psycopg2_url(database_url)
    try:
        if not _exists(url):
            _create(url)
        return _upgrade(url)
    except sa_exc.OperationalError as error:
        raise StoreUnavailable(one_line(error)) from error


def _exists(url: URL) -> bool:
    try:
        with _connected(url):
            return True
    except sa_exc.OperationalError as error:
        if _NO_SUCH_DATABASE.search(str(error.orig)):
            return False
        raise


def _create(url: URL) -> None:
    engine = create_engine(url.set(database="postgres"), poolclass=NullPool, connect_args=_connect_args())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        quoted = engine.dialect.identifier_preparer.quote_identifier(str(url.database))
        try:
            connection.execute(text(f"create database {quoted} encoding 'UTF8' template template0"))
        except (sa_exc.ProgrammingError, sa_exc.IntegrityError):
            # Another process was quicker, or we may not: the next step tells.
            if not _exists(url):
                raise


def _upgrade(url: URL) -> str | None:
    with _connected(url) as connection:
        # Held by the session, not by a transaction: Alembic commits in between.
        connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": LOCK_MIGRATIONS})
        connection.commit()
        try:
            config = _config(connection)
            if newer := _unknown(config, connection):
                return newer
            command.upgrade(config, "head")
            return None
        finally:
            connection.rollback()
            connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": LOCK_MIGRATIONS})
            connection.commit()


def _unknown(config: Config, connection: Connection) -> str | None:
    """The revision that the database is at, if it is none of ours."""
    ours = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    theirs = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()  # Alembic commits nothing in a transaction that is not its own
    return min(theirs - ours, default=None)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _connected(url: URL) -> Connection:
    return create_engine(url, poolclass=NullPool, connect_args=_connect_args()).connect()


def _connect_args() -> dict[str, object]:
    options = f"-c lock_timeout={_LOCK_TIMEOUT_S}s -c timezone=UTC"
    return {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "hooklog migrate", "options": options}
