-- The tables of tenants as the original's first 26 migrations leave them (up to 20250926223044).
create table tenants (
  id uuid primary key,
  name text,
  external_id text,
  jwt_secret text,
  max_concurrent_users integer not null default 200,
  inserted_at timestamp(0) without time zone not null,
  updated_at timestamp(0) without time zone not null,
  max_events_per_second integer not null default 100,
  postgres_cdc_default text default 'postgres_cdc_rls',
  max_bytes_per_second integer not null default 100000,
  max_channels_per_client integer not null default 100,
  max_joins_per_second integer not null default 500,
  suspend boolean default false,
  jwt_jwks jsonb,
  notify_private_alpha boolean default false,
  private_only boolean not null default false,
  migrations_ran integer default 0,
  broadcast_adapter character varying(255) default 'gen_rpc',
  max_presence_events_per_second integer default 1000,
  max_payload_size_in_kb integer default 3000
);
create unique index tenants_external_id_index on tenants (external_id);

create table extensions (
  id uuid primary key,
  type text,
  settings jsonb,
  tenant_external_id text references tenants (external_id) on delete cascade,
  inserted_at timestamp(0) without time zone not null,
  updated_at timestamp(0) without time zone not null
);
create unique index extensions_tenant_external_id_type_index on extensions (tenant_external_id, type);
create index extensions_tenant_external_id_index on extensions (tenant_external_id);

create table if not exists schema_migrations (
  version bigint primary key,
  inserted_at timestamp(0) without time zone
);
