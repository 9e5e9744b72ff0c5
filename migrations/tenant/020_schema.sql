-- The schema and who may use it (spec: tenant-database 4).
do $$
begin
  -- `if not exists` would ask for the right to create one even where it exists.
  if to_regnamespace('realtime') is null then
    create schema realtime;
  end if;
end
$$;

grant usage on schema realtime to anon, authenticated, service_role;
grant all on schema realtime to supabase_realtime_admin with grant option;

do $$
begin
  if exists (select from pg_roles where rolname = 'postgres') then
    grant usage on schema realtime to postgres;
  end if;
end
$$;
