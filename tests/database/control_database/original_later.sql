-- What the original's migrations after those of original_seed.sql add, up to v2.129.8.
set search_path = _realtime;

alter table tenants add constraint jwt_secret_or_jwt_jwks_required check (jwt_secret is not null or jwt_jwks is not null);
alter table tenants add column max_client_presence_events_per_window integer;
alter table tenants add column client_presence_window_ms integer;
alter table tenants add column presence_enabled boolean default false not null;
alter table tenants add column feature_flags jsonb default '{}' not null;
create table feature_flags (
  id uuid not null constraint feature_flags_pkey primary key,
  name varchar(255) not null,
  enabled boolean default false not null,
  inserted_at timestamp(0) without time zone not null,
  updated_at timestamp(0) without time zone not null
);
create unique index feature_flags_name_index on feature_flags using btree (name);
alter table feature_flags add column rollout_percentage integer default 100 not null;
alter table feature_flags add column bucket_key varchar(255);
alter table feature_flags add constraint rollout_percentage_must_be_between_0_and_100
  check (rollout_percentage >= 0 and rollout_percentage <= 100);
alter table tenants add column gcm_migrated_at timestamp(0) without time zone;

insert into schema_migrations (version, inserted_at)
select unnest(array[
  20251204170944, 20251218000543, 20260209232800, 20260304000000, 20260422000000, 20260709151810, 20260805000000
]), timestamp '2026-09-01 12:00:00';

insert into feature_flags (id, name, enabled, inserted_at, updated_at)
values ('99999999-2222-3333-4444-555555555555', 'gcm_encryption_backfill', true, '2026-09-01 12:00:00', '2026-09-01 12:00:00');
