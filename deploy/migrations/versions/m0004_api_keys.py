"""API keys, hashed.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEYS = """
create sequence api_keys_version;
create table api_keys (
    id uuid primary key,
    name text not null,
    prefix text not null,
    key_hash bytea not null unique check (length(key_hash) = 32),
    role text not null check (role in ('publish', 'read', 'manage', 'admin')),
    tenant text,
    created_at timestamptz not null,
    revoked_at timestamptz,
    version bigint not null
);
-- Every process asks for the newest version twice a second.
create unique index api_keys_by_version on api_keys (version);
"""


def upgrade() -> None:
    op.execute(_KEYS)


def downgrade() -> None:
    op.execute("drop table api_keys")
    op.execute("drop sequence api_keys_version")
