"""Idempotency keys, for when Redis is down and to outlive it.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLE = """
create table idempotency_keys (
    name bytea primary key,
    webhook_id text not null,
    body_hash bytea not null,
    confirmed boolean not null,
    expires_at timestamptz not null
);
-- What has expired is deleted in bounded batches.
create index idempotency_keys_expired on idempotency_keys (expires_at);
"""


def upgrade() -> None:
    op.execute(_TABLE)


def downgrade() -> None:
    op.execute("drop table idempotency_keys")
