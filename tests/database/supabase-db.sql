-- What a Supabase project's database holds before Realtime runs its own migrations: the auth and extensions schemas, the
-- realtime and _realtime schemas, default privileges on public, and an empty publication.
--
-- Runs as the bootstrap superuser, supabase_admin, in a new database of a cluster that has the roles of supabase-roles.sql.

\set ON_ERROR_STOP on
set client_min_messages = warning;

grant create on database :"DBNAME" to postgres, supabase_realtime_admin;
grant all on database :"DBNAME" to dashboard_user;

-- extensions
create schema extensions authorization postgres;
grant usage on schema extensions to public;
create extension pgcrypto    with schema extensions;
create extension "uuid-ossp" with schema extensions;

-- public
alter schema public owner to postgres;
grant usage on schema public to postgres, anon, authenticated, service_role;
grant create, usage on schema public to supabase_realtime_admin;

do $$
declare creator text;
begin
  foreach creator in array array['postgres', 'supabase_admin'] loop
    execute format('alter default privileges for role %I in schema public grant all on tables    to postgres, anon, authenticated, service_role', creator);
    execute format('alter default privileges for role %I in schema public grant all on sequences to postgres, anon, authenticated, service_role', creator);
    execute format('alter default privileges for role %I in schema public grant all on functions to postgres, anon, authenticated, service_role', creator);
  end loop;
end $$;

-- auth
create schema auth authorization supabase_auth_admin;
grant usage on schema auth to anon, authenticated, service_role, postgres, supabase_realtime_admin;
grant all   on schema auth to dashboard_user;

create table auth.users (
  instance_id        uuid default '00000000-0000-0000-0000-000000000000',
  id                 uuid primary key,
  aud                varchar(255) default 'authenticated',
  role               varchar(255) default 'authenticated',
  email              varchar(255) unique,
  phone              text,
  encrypted_password varchar(255),
  email_confirmed_at timestamptz,
  last_sign_in_at    timestamptz,
  raw_app_meta_data  jsonb not null default '{}',
  raw_user_meta_data jsonb not null default '{}',
  is_super_admin     boolean,
  is_anonymous       boolean not null default false,
  created_at         timestamptz not null default now(),
  updated_at         timestamptz not null default now()
);

create table auth.sessions (
  id         uuid primary key,
  user_id    uuid not null references auth.users (id) on delete cascade,
  aal        text not null default 'aal1',
  created_at timestamptz not null default now()
);

create table auth.refresh_tokens (
  token      text primary key,
  session_id uuid not null references auth.sessions (id) on delete cascade,
  revoked    boolean not null default false,
  created_at timestamptz not null default now()
);

-- Helpers that policies use. Claims arrive in request.jwt.claims (one JSON object); the older
-- one-setting-per-claim form is still honoured first.
create function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim',  true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;

create function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), auth.jwt() ->> 'sub')::uuid
$$;

create function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''), auth.jwt() ->> 'role')
$$;

create function auth.email() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.email', true), ''), auth.jwt() ->> 'email')
$$;

do $$
declare obj record;
begin
  for obj in select c.oid::regclass as rel from pg_class c where c.relnamespace = 'auth'::regnamespace and c.relkind = 'r' loop
    execute format('alter table %s owner to supabase_auth_admin', obj.rel);
  end loop;
  for obj in select p.oid::regprocedure as fn from pg_proc p where p.pronamespace = 'auth'::regnamespace loop
    execute format('alter function %s owner to supabase_auth_admin', obj.fn);
  end loop;
end $$;
grant all on all tables    in schema auth to postgres, dashboard_user;
grant execute on all functions in schema auth to public;

-- realtime
create schema realtime authorization supabase_admin;
grant usage on schema realtime to postgres, anon, authenticated, service_role;
grant all   on schema realtime to supabase_realtime_admin with grant option;

create schema _realtime authorization supabase_admin;
grant create, usage on schema _realtime to supabase_realtime_admin;

-- publication
create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
