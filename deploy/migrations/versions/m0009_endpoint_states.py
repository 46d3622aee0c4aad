"""How the endpoint of each subscription does.

Revision ID: 0009
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

# Every batch of the sink writes the rows of its subscriptions again: with room in each page, and no index on what
# changes, such an update stays in its page (HOT).
_TABLE = """
create table endpoint_states (
    subscription_id uuid primary key,
    breaker text not null default 'closed' check (breaker in ('closed', 'open', 'half_open')),
    slow boolean not null default false,
    reason text,
    changed_at timestamptz not null default 'epoch',
    open_until timestamptz,
    log_partition integer not null default 0,
    log_offset bigint not null default -1,
    failing_since timestamptz,
    last_success_at timestamptz,
    last_failure_at timestamptz,
    disabled_reason text check (disabled_reason in ('gone', 'failing')),
    disabled_at timestamptz
) with (fillfactor = 50)
"""


def upgrade() -> None:
    op.execute(_TABLE)


def downgrade() -> None:
    op.execute("drop table endpoint_states")
