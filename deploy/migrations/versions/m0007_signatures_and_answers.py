"""Subscriptions: which signatures go out, and the keys of v1a. Attempts: bytes, and the beginning of the answer.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Processes of the version before go on inserting rows without these columns.
_COLUMNS = """
alter table subscriptions
    add column signing_versions text[] not null default '{v1}'
        check (signing_versions <@ '{v1,v1a}' and cardinality(signing_versions) > 0),
    add column sealed_private_keys text;
alter table attempts
    add column sent_bytes integer,
    add column received_bytes integer,
    add column response_body text
"""


def upgrade() -> None:
    op.execute(_COLUMNS)


def downgrade() -> None:
    op.execute("alter table subscriptions drop column signing_versions, drop column sealed_private_keys")
    op.execute("alter table attempts drop column sent_bytes, drop column received_bytes, drop column response_body")
