"""Indexes for the filters of the log routes.

Revision ID: 0006
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_INDEXES = """
-- A tenant's own log is never searched for among the others' rows.
create index attempts_by_tenant on attempts (tenant, attempted_at desc, id desc) where kind = 'attempt';
create index attempts_by_event_type on attempts (event_type, attempted_at desc, id desc) where kind = 'attempt';
-- What people look for, and what there is least of: a row that succeeded costs nothing here.
create index attempts_not_succeeded on attempts (outcome, attempted_at desc, id desc)
    where kind = 'attempt' and outcome <> 'succeeded';
"""


def upgrade() -> None:
    op.execute(_INDEXES)


def downgrade() -> None:
    op.execute("drop index attempts_by_tenant, attempts_by_event_type, attempts_not_succeeded")
