-- The control database as the original's release of late September 2025 leaves it: the tables column by column, the versions that it
-- notes, and a tenant whose secrets are encrypted with AES-128-ECB and the key `supabaserealtime`.
create schema if not exists _realtime;
set search_path = _realtime;

create table schema_migrations (version bigint not null, inserted_at timestamp(0) without time zone);
alter table schema_migrations add constraint schema_migrations_pkey primary key (version);

create table tenants (
  id uuid not null constraint tenants_pkey primary key,
  name text,
  external_id text,
  jwt_secret text,
  max_concurrent_users integer default 200 not null,
  inserted_at timestamp(0) without time zone not null,
  updated_at timestamp(0) without time zone not null,
  max_events_per_second integer default 100 not null,
  postgres_cdc_default text default 'postgres_cdc_rls',
  max_bytes_per_second integer default 100000 not null,
  max_channels_per_client integer default 100 not null,
  max_joins_per_second integer default 500 not null,
  suspend boolean default false,
  jwt_jwks jsonb,
  notify_private_alpha boolean default false,
  private_only boolean default false not null,
  migrations_ran integer default 0,
  broadcast_adapter varchar(255) default 'gen_rpc',
  max_presence_events_per_second integer default 1000,
  max_payload_size_in_kb integer default 3000
);
create unique index tenants_external_id_index on tenants using btree (external_id);

create table extensions (
  id uuid not null constraint extensions_pkey primary key,
  type text,
  settings jsonb,
  tenant_external_id text constraint extensions_tenant_external_id_fkey references tenants (external_id) on delete cascade,
  inserted_at timestamp(0) without time zone not null,
  updated_at timestamp(0) without time zone not null
);
create index extensions_tenant_external_id_index on extensions using btree (tenant_external_id);
create unique index extensions_tenant_external_id_type_index on extensions using btree (tenant_external_id, type);

insert into schema_migrations (version, inserted_at)
select unnest(array[
  20210706140551, 20220329161857, 20220410212326, 20220506102948, 20220527210857, 20220815211129, 20220815215024, 20220818141501,
  20221018173709, 20221102172703, 20221223010058, 20230110180046, 20230810220907, 20230810220924, 20231024094642, 20240306114423,
  20240418082835, 20240625211759, 20240704172020, 20240902173232, 20241106103258, 20250424203323, 20250613072131, 20250711044927,
  20250811121559, 20250926223044
]), timestamp '2025-10-01 12:00:00';

insert into tenants (id, name, external_id, jwt_secret, max_concurrent_users, inserted_at, updated_at, migrations_ran, notify_private_alpha)
values ('d4448862-666f-4af2-9966-78298e8af6bf', 'realtime-dev', 'realtime-dev',
  'iNjicxc4+llvc9wovDvqymwfnj9teWMlyOIbJ8Fh6j2WNU8CIJ2ZgjR6MUIKqSmeDmvpsKLsZ9jgXJmQPpwL8w==', 7, '2025-10-01 12:00:00',
  '2025-10-02 13:14:15', 64, true);

insert into extensions (id, type, settings, tenant_external_id, inserted_at, updated_at)
values ('11111111-2222-3333-4444-555555555555', 'postgres_cdc_rls', '{
  "region": "us-east-1", "db_host": "7DdgtSK7rYs2fSvlK2dwYA==", "db_port": "+enMDFi1J/3IrrquHHwUmA==",
  "db_name": "sWBpZNdjggEPTQVlI52Zfw==", "db_user": "uxbEq/zz8DXVD53TOI1zmw==", "db_password": "sWBpZNdjggEPTQVlI52Zfw==",
  "poll_interval_ms": 100, "poll_max_changes": 100, "poll_max_record_bytes": 1048576, "publication": "supabase_realtime",
  "slot_name": "supabase_realtime_replication_slot", "ssl_enforced": false}', 'realtime-dev', '2025-10-01 12:00:00', '2025-10-01 12:00:00');
