-- The text of a PREPARE that asks whether there is a row with this key. None without a key (spec: postgres-changes 5.4).
create function realtime.build_prepared_statement_sql(
  prepared_statement_name text, entity regclass, columns realtime.wal_column[]
) returns text
language sql
as $$
  select pg_catalog.format(
    'prepare %I as select exists (select from %s where %s)',
    prepared_statement_name,
    entity,
    pg_catalog.string_agg(pg_catalog.format('%I = %L', c.name, c.value #>> '{}'), ' and ')
  )
  from pg_catalog.unnest(columns) as c
  where c.is_pkey
  having pg_catalog.count(*) > 0
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format(
      'grant execute on function realtime.build_prepared_statement_sql(text, regclass, realtime.wal_column[]) to %I',
      grantee
    );
  end loop;
end
$$;
