-- What a Supabase project's database holds before this server meets it, as far as policies, triggers and psql need it. For the private
-- PostgreSQL of `realtime dev`; executed at every start, so everything in it is guarded and nothing takes back what the owner changed.
do $$
declare
  wanted record;
  made text[] := '{}';
  member text;
begin
  for wanted in
    select * from (values
      -- The owner of the project: powerful, but policies bind it where it does not bypass them, as on the platform.
      ('postgres', 'login createdb createrole replication bypassrls'),
      ('anon', 'nologin noinherit'),
      ('authenticated', 'nologin noinherit'),
      ('service_role', 'nologin noinherit bypassrls'),
      ('authenticator', 'login noinherit'),
      ('dashboard_user', 'nologin createdb createrole replication'),
      ('supabase_realtime_admin', 'nologin noinherit')
    ) as roles (name, attributes)
    where not exists (select from pg_roles where rolname = roles.name)
  loop
    execute format('create role %I %s', wanted.name, wanted.attributes);
    made := made || wanted.name;
  end loop;

  foreach member in array array['postgres', 'authenticator', 'supabase_realtime_admin'] loop
    if member = any (made) then
      execute format('grant anon, authenticated, service_role to %I', member);
    end if;
  end loop;
  if 'postgres' = any (made) then
    -- So that the owner can write policies on realtime.messages.
    grant supabase_realtime_admin to postgres;
    execute format('grant create on database %I to postgres, supabase_realtime_admin', current_database());
  end if;
end
$$;

grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

create schema if not exists extensions authorization postgres;
grant usage on schema extensions to public;
grant all on schema public to postgres;
grant usage on schema public to anon, authenticated, service_role;

do $$
declare
  creator text;
  kind text;
begin
  foreach creator in array array['postgres', current_user] loop
    foreach kind in array array['tables', 'sequences', 'functions'] loop
      execute format(
        'alter default privileges for role %I in schema public grant all on %s to postgres, anon, authenticated, service_role',
        creator, kind
      );
    end loop;
  end loop;
end
$$;

-- Users, and what policies ask about them. A token's claims are in request.jwt.claims while a policy is evaluated; the settings of
-- single claims are older and still count.
create schema if not exists auth;
grant usage on schema auth to postgres, anon, authenticated, service_role, supabase_realtime_admin;

create table if not exists auth.users (
  id uuid primary key default gen_random_uuid(),
  email text unique,
  raw_user_meta_data jsonb not null default '{}',
  created_at timestamptz not null default now()
);
grant all on auth.users to postgres;

create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim', true), ''), nullif(current_setting('request.jwt.claims', true), ''))::jsonb
$$;

create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), auth.jwt() ->> 'sub')::uuid
$$;

create or replace function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''), auth.jwt() ->> 'role')
$$;

create or replace function auth.email() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.email', true), ''), auth.jwt() ->> 'email')
$$;

-- No table's changes are published until the owner says so: alter publication supabase_realtime add table todos;
do $$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
    alter publication supabase_realtime owner to postgres;
  end if;
end
$$;
