-- The changes of a slot with who may see them: one row per change and audience; a single row of nulls where nobody is to hear anything.
-- The last column counts what was taken from the slot (spec: postgres-changes 5.1). It needs the plugin wal2json; this server does without.
create function realtime.list_changes(publication name, slot_name name, max_changes int, max_record_bytes int)
returns table (wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[], slot_changes_count bigint)
language sql
as $$
  with published as (
    select
      pg_catalog.concat_ws(
        ',',
        case when p.pubinsert then 'insert' end,
        case when p.pubupdate then 'update' end,
        case when p.pubdelete then 'delete' end
      ) as actions,
      coalesce((
        select pg_catalog.string_agg(realtime.quote_wal2json(pg_catalog.format('%I.%I', t.schemaname, t.tablename)::regclass), ',')
        from pg_publication_tables as t where t.pubname = p.pubname
      ), '') as tables
    from pg_publication as p
    where p.pubname = publication
  ),
  taken as materialized (
    select c.data::jsonb as data, c.position, p.tables
    from published as p,
      lateral pg_catalog.pg_logical_slot_get_changes(
        slot_name, null, max_changes,
        'include-pk', 'true',
        'include-transaction', 'false',
        'include-timestamp', 'true',
        'include-type-oids', 'true',
        'format-version', '2',
        'actions', p.actions,
        'add-tables', p.tables
      ) with ordinality as c (lsn, xid, data, position)
  ),
  heard as materialized (
    select r.wal, r.is_rls_enabled, r.subscription_ids, r.errors, t.position, r.part
    from taken as t,
      lateral realtime.apply_rls(t.data, max_record_bytes) with ordinality
        as r (wal, is_rls_enabled, subscription_ids, errors, part)
    where t.tables <> '' and pg_catalog.cardinality(r.subscription_ids) > 0
  ),
  rows as (
    select h.wal, h.is_rls_enabled, h.subscription_ids, h.errors, h.position, h.part from heard as h
    union all
    select null, null, null, null, null, null where not exists (select from heard)
  )
  select r.wal, r.is_rls_enabled, r.subscription_ids, r.errors, (select pg_catalog.count(*) from taken)
  from rows as r
  order by r.position, r.part
$$;

do $$
begin
  -- Keeps what policies raise out of the server's log. Superusers only.
  alter function realtime.list_changes(name, name, int, int) set log_min_messages = 'fatal';
exception when insufficient_privilege then
  null;
end
$$;
