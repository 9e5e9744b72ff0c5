-- A table's name as wal2json wants it.
create function realtime.quote_wal2json(entity regclass) returns text
language sql immutable strict
as $$
  select realtime.wal2json_escape_identifier(n.nspname::text) || '.' || realtime.wal2json_escape_identifier(c.relname::text)
  from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
  where c.oid = entity
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format('grant execute on function realtime.quote_wal2json(regclass) to %I', grantee);
  end loop;
end
$$;
