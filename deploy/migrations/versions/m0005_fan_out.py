"""Fan-out: one row per event of `events`, and on deliveries the event that they come from.

Revision ID: 0005
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_CHANGES = """
create table events (
    id text collate "C" not null,
    accepted_at timestamptz not null,
    tenant text not null,
    event_type text,
    matched integer,
    fanned_out_at timestamptz,
    source text,
    stage smallint not null,
    log_partition integer not null,
    log_offset bigint not null,
    primary key (id, accepted_at)
) partition by range (accepted_at);
create table events_default partition of events default;

alter table deliveries add column event_id text collate "C";
-- "The deliveries of this event": those of one day, since they share the event's time.
create index deliveries_by_event on deliveries (event_id, id) where event_id is not null;
"""


def upgrade() -> None:
    op.execute(_CHANGES)


def downgrade() -> None:
    op.execute("alter table deliveries drop column event_id")
    op.execute("drop table events")
