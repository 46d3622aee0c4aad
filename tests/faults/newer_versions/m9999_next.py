"""What a next version might add: a column in each of three tables, and an index on each. Never part of the product."""

from __future__ import annotations

from alembic import op
from alembic.script import ScriptDirectory

import deploy.migrations

revision = "9999_next"
down_revision = ScriptDirectory(deploy.migrations.__path__[0]).get_current_head()
branch_labels = None
depends_on = None

_COLUMNS = {"deliveries": "text", "attempts": "text", "subscriptions": "integer not null default 0"}


def upgrade() -> None:
    for table, column in _COLUMNS.items():
        op.execute(f"alter table {table} add column next_version {column}")
        op.execute(f"create index {table}_next_version on {table} (next_version)")


def downgrade() -> None:
    for table in _COLUMNS:
        op.execute(f"drop index {table}_next_version")
        op.execute(f"alter table {table} drop column next_version")
