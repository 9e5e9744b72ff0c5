-- The roles of a Supabase project: for a whole cluster, so once. What each database holds is in supabase-db.sql.
--
-- Runs as the bootstrap superuser, supabase_admin. psql variable: pw = password of every role that may log in.

\set ON_ERROR_STOP on
set client_min_messages = warning;

-- "postgres" is what a project owner gets: powerful, but not a superuser.
create role postgres login createdb createrole replication bypassrls password :'pw';

create role anon            nologin noinherit;
create role authenticated   nologin noinherit;
create role service_role    nologin noinherit bypassrls;
create role dashboard_user  nologin createdb createrole replication;

-- The REST layer logs in as authenticator and switches to one of the three API roles.
create role authenticator   login noinherit password :'pw';
create role supabase_auth_admin    login noinherit createrole password :'pw';
create role supabase_storage_admin login noinherit createrole password :'pw';
create role supabase_realtime_admin nologin noinherit noreplication;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres;
grant anon, authenticated, service_role to supabase_realtime_admin;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

-- A hosted project lets "postgres" write policies on realtime.messages through an extension that is
-- not packaged here; membership in the owning role gives the same power.
grant supabase_realtime_admin to postgres;
-- PostgreSQL 14 has no such privilege.
select current_setting('server_version_num')::int >= 150000 as knows_parameters \gset
\if :knows_parameters
grant set on parameter log_min_messages to supabase_realtime_admin;
\endif

alter role anon          set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role postgres                set search_path = "$user", public, extensions;
alter role supabase_admin          set search_path = "$user", public, auth, extensions;
alter role supabase_auth_admin     set search_path = auth;
alter role supabase_realtime_admin set search_path = public, extensions, realtime;

