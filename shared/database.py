"""Postgres connections: a small bounded pool, bounded waits, and one exception for "out of reach"."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy import exc as sa_exc

from shared.errors import ConfigurationError, HooklogError, StoreUnavailable, ValuesRefused

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 3
_STATEMENT_TIMEOUT_S = 10
#: Every writer of subscriptions waits for one lock: not longer than this.
_LOCK_TIMEOUT_S = 3

#: What is about the values and not about the server, by SQLSTATE: data, integrity, limits of the program.
_VALUES_CLASSES = ("22", "23", "54")


class Database:
    """One Postgres database. Connections are opened on use; nothing is read or written by creating this."""

    def __init__(self, url: str, *, pool_size: int = 5, statement_timeout_s: int = _STATEMENT_TIMEOUT_S) -> None:
        options = (
            f"-c statement_timeout={statement_timeout_s}s -c lock_timeout={_LOCK_TIMEOUT_S}s"
            " -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
        )
        self._engine = create_engine(
            psycopg2_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_CONNECT_TIMEOUT_S,
            pool_pre_ping=True,
            # Values of a failed statement may be secrets or payloads' data: they stay out of messages.
            hide_parameters=True,
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                # A server that vanished without a word is noticed after this.
                "tcp_user_timeout": _STATEMENT_TIMEOUT_S * 1000,
                "application_name": "hooklog",
                "options": options,
            },
        )

    @property
    def engine(self) -> Engine:
        return self._engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back by an exception.

        Raises ValuesRefused when the values are at fault, StoreUnavailable when Postgres cannot be reached or cannot
        do it now (a schema that is not migrated yet included).
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa_exc.DBAPIError as error:
            raise translated(error.orig) from error
        except sa_exc.SQLAlchemyError as error:
            raise StoreUnavailable(one_line(error)) from error

    def check(self) -> None:
        """One round trip. Raises StoreUnavailable."""
        with self.transaction() as connection:
            connection.execute(text("select 1"))

    def close(self) -> None:
        """Close the pooled connections; the object can be used again."""
        self._engine.dispose()


def psycopg2_url(url: str) -> URL:
    """``postgresql://…`` or ``postgres://…`` for SQLAlchemy with psycopg2. Raises ConfigurationError."""
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    except (sa_exc.ArgumentError, ValueError):
        raise ConfigurationError("DATABASE_URL: not a URL such as postgresql://user:password@host:5432/name") from None
    if parsed.get_backend_name() != "postgresql" or not parsed.database:
        raise ConfigurationError("DATABASE_URL: needs postgresql:// and the name of a database")
    return parsed.set(drivername="postgresql+psycopg2")


def translated(error: BaseException | None) -> HooklogError:
    """The driver's error in our words: whose fault it is."""
    code = getattr(error, "pgcode", None) or ""
    if isinstance(error, psycopg2.Error) and code.startswith(_VALUES_CLASSES):
        # Postgres' own text shows values: its code is enough.
        return ValuesRefused(f"SQLSTATE {code}")
    return StoreUnavailable(one_line(error))


def one_line(error: BaseException | None) -> str:
    """What Postgres said, without statement and values: for readiness and logs."""
    reason = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    lines = str(reason).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
