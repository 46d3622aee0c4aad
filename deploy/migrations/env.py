"""Alembic's entry: runs the migrations on the connection that `deploy/migrate.py` hands over."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import shared.tables  # noqa: F401 - fills SQLModel.metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
with context.begin_transaction():
    context.run_migrations()
