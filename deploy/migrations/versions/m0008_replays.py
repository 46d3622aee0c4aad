"""What is parked, and the jobs that publish records of a topic back to `deliveries`.

Revision ID: 0008
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLES = """
create table parked (
    subscription_id uuid not null,
    topic text not null,
    partition integer not null,
    from_offset bigint not null,
    to_offset bigint not null check (to_offset > from_offset),
    records bigint not null,
    primary key (subscription_id, topic, partition)
);
-- What the janitor must not delete.
create index parked_by_place on parked (topic, partition, from_offset);

create table replays (
    id uuid primary key,
    kind text not null,
    topic text not null,
    tenant text not null,
    subscription_id uuid,
    state text not null check (state in ('running', 'held', 'done', 'cancelled')),
    reason text,
    records bigint not null,
    published bigint not null,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    next_step_at timestamptz not null,
    not_before timestamptz not null,
    paced_to timestamptz,
    stepped_at timestamptz,
    last_records integer not null default 0,
    last_partition integer,
    last_offset bigint
);
create index replays_due on replays (next_step_at) where state = 'running';
create index replays_open on replays (subscription_id, created_at) where state in ('running', 'held');
create index replays_finished on replays (finished_at) where finished_at is not null;

create table replay_ranges (
    replay_id uuid not null references replays (id) on delete cascade,
    partition integer not null,
    from_offset bigint not null,
    to_offset bigint not null check (to_offset > from_offset),
    next_offset bigint not null check (next_offset between from_offset and to_offset),
    primary key (replay_id, partition, from_offset)
);
"""


def upgrade() -> None:
    op.execute(_TABLES)


def downgrade() -> None:
    op.execute("drop table replay_ranges, replays, parked")
