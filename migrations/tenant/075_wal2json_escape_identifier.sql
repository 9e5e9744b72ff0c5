-- A name as wal2json wants it in a list of tables (spec: postgres-changes 5.1).
create function realtime.wal2json_escape_identifier(name text) returns text
language sql immutable strict
as $$
  select pg_catalog.regexp_replace(name, '([\\,.[:space:]])', '\\\1', 'g')
$$;
