-- The schema, who may use it, and what belongs to whom by default (spec: tenant-database 4).
create schema if not exists realtime;

grant usage on schema realtime to anon, authenticated, service_role;
grant all on schema realtime to supabase_realtime_admin with grant option;

do $$
declare
  grantee text;
  kind text;
begin
  for grantee in select rolname from pg_roles where rolname in ('postgres', 'dashboard_user') loop
    if grantee = 'postgres' then
      execute format('grant usage on schema realtime to %I', grantee);
    end if;
    foreach kind in array array['tables', 'functions', 'sequences'] loop
      execute format('alter default privileges in schema realtime grant all on %s to %I', kind, grantee);
    end loop;
  end loop;
end
$$;
