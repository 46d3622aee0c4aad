"""Subscriptions: the scheme of incoming signatures, limits of their own, and what rotations replaced.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Processes of the version before go on inserting rows without these columns.
_COLUMNS = """
alter table subscriptions
    add column signature_scheme text not null default 'hub'
        check (signature_scheme in ('hub', 'standard', 'stripe', 'shopify')),
    add column rate_limit double precision,
    add column max_in_flight integer,
    add column sealed_previous text
"""


def upgrade() -> None:
    op.execute(_COLUMNS)


def downgrade() -> None:
    op.execute(
        "alter table subscriptions drop column signature_scheme, drop column rate_limit,"
        " drop column max_in_flight, drop column sealed_previous"
    )
