-- Features for some tenants: by the tenant's own word, or for all of them.
alter table tenants add column feature_flags jsonb not null default '{}';
create table feature_flags (
  id uuid primary key,
  name character varying(255) not null,
  enabled boolean not null default false,
  inserted_at timestamp(0) without time zone not null,
  updated_at timestamp(0) without time zone not null
);
create unique index feature_flags_name_index on feature_flags (name);
