"""First tables: subscriptions, the attempt log partitioned by day, alarms, the sink's progress.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
create table installation (
    id integer primary key,
    key_check text not null
);

create sequence subscriptions_version;
create table subscriptions (
    id uuid primary key,
    tenant text not null,
    target_url text not null,
    status text not null check (status in ('active', 'paused', 'disabled')),
    event_types text[] not null,
    description text,
    sealed_secret text,
    sealed_signing_keys text not null,
    sealed_headers text,
    timeout_seconds double precision,
    retry_delays integer[],
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version bigint not null,
    deleted_at timestamptz
);
-- The change feed asks for `version >` every 500 ms, and at its start for what changed lately.
create unique index subscriptions_by_version on subscriptions (version);
create index subscriptions_by_update on subscriptions (updated_at);
create index subscriptions_listed on subscriptions (created_at, id) where deleted_at is null;
create index subscriptions_by_tenant on subscriptions (tenant) where deleted_at is null;

-- Ids compare as bytes: quicker, and the order of UUIDv7 is that of their times.
create table deliveries (
    id text collate "C" not null,
    accepted_at timestamptz not null,
    subscription_id text collate "C" not null,
    tenant text not null,
    event_type text,
    status text not null check (status in ('queued', 'retrying', 'paused', 'succeeded', 'failed', 'cancelled')),
    run integer not null,
    latest_attempt integer not null,
    reason text,
    next_attempt_at timestamptz,
    source text,
    stage bigint not null,
    changed_at timestamptz not null,
    log_partition integer not null,
    log_offset bigint not null,
    primary key (id, accepted_at)
) partition by range (accepted_at);
create table deliveries_default partition of deliveries default with (fillfactor = 80);

create table attempts (
    webhook_id text collate "C" not null,
    id uuid not null,
    accepted_at timestamptz not null,
    subscription_id text collate "C" not null,
    tenant text not null,
    event_type text,
    target_url text,
    kind text not null,
    run integer not null,
    attempt integer not null,
    waits integer not null,
    attempted_at timestamptz not null,
    outcome text check (outcome in ('succeeded', 'failed_attempt', 'permanently_failed')),
    reason text,
    http_status_code integer,
    error_class text,
    error_details text,
    duration_ms double precision,
    timings_ms jsonb,
    address text,
    next_attempt_at timestamptz,
    source text,
    finality smallint not null,
    log_partition integer not null,
    log_offset bigint not null,
    -- `id` is derived from `webhook_id`; in this order the key also answers "the attempts of this webhook".
    primary key (webhook_id, id, accepted_at)
) partition by range (accepted_at);
create index attempts_newest on attempts (attempted_at desc, id desc) where kind = 'attempt';
create index attempts_by_subscription on attempts (subscription_id, attempted_at desc, id desc)
    where kind = 'attempt';
create table attempts_default partition of attempts default;

create table alarms (
    kind text not null,
    consumer_group text not null,
    source text not null,
    committed_offset bigint not null,
    position bigint not null,
    raised_at timestamptz not null,
    acknowledged_at timestamptz,
    primary key (kind, consumer_group, source, committed_offset, position)
);

create table sink_progress (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    caught_up_to timestamptz not null,
    updated_at timestamptz not null,
    primary key (topic, partition)
);
"""


def upgrade() -> None:
    op.execute(_TABLES)


def downgrade() -> None:
    op.execute("drop table installation, subscriptions, deliveries, attempts, alarms, sink_progress")
    op.execute("drop sequence subscriptions_version")
