-- Who may see a change, in the words of wal2json: a row per role, and per list of columns that subscribers of that role chose (spec:
-- postgres-changes 5.3, 5.4). This server decides that by itself; see 070.
create function realtime.apply_rls(wal jsonb, max_record_bytes int default 1048576) returns setof realtime.wal_rls
language plpgsql
as $$
declare
  changed regclass := (pg_catalog.quote_ident(wal ->> 'schema') || '.' || pg_catalog.quote_ident(wal ->> 'table'))::regclass;
  action realtime.action := case wal ->> 'action' when 'I' then 'INSERT' when 'U' then 'UPDATE' when 'D' then 'DELETE' else 'ERROR' end;
  has_policies boolean := (select relrowsecurity from pg_class where oid = changed);
  is_too_large boolean := pg_catalog.octet_length(wal::text) > max_record_bytes;
  key text[] := array(select k ->> 'name' from pg_catalog.jsonb_array_elements(wal -> 'pk') as k);
  acting_role text := pg_catalog.current_setting('role');
  new_row realtime.wal_column[];
  old_row realtime.wal_column[];
  asking_role regrole;
  subscriber record;
  selection record;
  is_visible boolean;
  visible_ids uuid[];
  head jsonb := pg_catalog.jsonb_build_object('schema', wal ->> 'schema', 'table', wal ->> 'table', 'type', action);
  document jsonb;
  refusal text;
begin
  -- Whatever is none of the three, a logical message for example, matches nobody.
  if action = 'ERROR' then
    return;
  end if;

  for asking_role in
    select s.claims_role from realtime.subscription as s
    where s.entity = changed and coalesce(s.action_filter, '*') in ('*', action::text)
    group by s.claims_role order by s.claims_role::text
  loop
    new_row := array(
      select row(
        c ->> 'name', c ->> 'type', (c ->> 'typeoid')::oid,
        realtime."cast"(c ->> 'value', (c ->> 'typeoid')::oid::regtype),
        c ->> 'name' = any (key),
        pg_catalog.has_column_privilege(asking_role, changed, c ->> 'name', 'select')
      )::realtime.wal_column
      from pg_catalog.jsonb_array_elements(wal -> 'columns') as c
    );
    old_row := array(
      select row(
        c ->> 'name', c ->> 'type', (c ->> 'typeoid')::oid,
        realtime."cast"(c ->> 'value', (c ->> 'typeoid')::oid::regtype),
        c ->> 'name' = any (key),
        pg_catalog.has_column_privilege(asking_role, changed, c ->> 'name', 'select')
      )::realtime.wal_column
      from pg_catalog.jsonb_array_elements(wal -> 'identity') as c
    );

    refusal := null;
    if action <> 'DELETE' then
      if not exists (select from pg_catalog.unnest(new_row) as c where c.is_pkey) then
        refusal := 'Error 400: Bad Request, no primary key';
      elsif exists (select from pg_catalog.unnest(new_row) as c where c.is_pkey and not c.is_selectable) then
        refusal := 'Error 401: Unauthorized';
      end if;
    end if;

    -- Who sees it: first the filters, then, where there are policies, whether the row is there for them. A deleted row is there for
    -- nobody, so its key goes to everybody whose filters let it pass.
    visible_ids := '{}';
    if has_policies and action <> 'DELETE' and refusal is null then
      if exists (select from pg_prepared_statements where name = 'walrus_rls_stmt') then
        deallocate walrus_rls_stmt;
      end if;
      execute realtime.build_prepared_statement_sql('walrus_rls_stmt', changed, new_row);
    end if;
    for subscriber in
      select s.subscription_id, s.claims from realtime.subscription as s
      where refusal is null
        and s.entity = changed and s.claims_role = asking_role and coalesce(s.action_filter, '*') in ('*', action::text)
        and realtime.is_visible_through_filters(case action when 'DELETE' then old_row else new_row end, s.filters)
    loop
      is_visible := true;
      if has_policies and action <> 'DELETE' then
        -- asking_role is printed as it stands in statements; the setting takes the bare name.
        perform pg_catalog.set_config('role', (select rolname from pg_roles where oid = asking_role), true),
          pg_catalog.set_config('request.jwt.claims', subscriber.claims::text, true);
        execute 'execute walrus_rls_stmt' into is_visible;
        perform pg_catalog.set_config('role', acting_role, true);
      end if;
      if is_visible then
        visible_ids := visible_ids || subscriber.subscription_id;
      end if;
    end loop;

    for selection in
      select s.selected_columns as columns, pg_catalog.array_agg(s.subscription_id) as ids from realtime.subscription as s
      where s.entity = changed and s.claims_role = asking_role and coalesce(s.action_filter, '*') in ('*', action::text)
      group by s.selected_columns order by pg_catalog.array_to_string(s.selected_columns, ',') nulls first
    loop
      if refusal is not null then
        return query select head, has_policies, selection.ids, array[refusal];
        continue;
      end if;
      document := head || pg_catalog.jsonb_build_object(
        'commit_timestamp', pg_catalog.to_char((wal ->> 'timestamp')::timestamptz at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'columns', (
          select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', a.attname, 'type', t.typname) order by a.attnum)
          from pg_attribute as a join pg_type as t on t.oid = a.atttypid
          where a.attrelid = changed and a.attnum > 0 and not a.attisdropped
            and pg_catalog.has_column_privilege(asking_role, a.attrelid, a.attnum, 'select')
            and (selection.columns is null or a.attname = any (selection.columns) or a.attname = any (key))
        )
      );
      if action <> 'DELETE' then
        -- An unchanged large value is in the old row only, if at all.
        document := document || pg_catalog.jsonb_build_object('record', (
          select pg_catalog.jsonb_object_agg(coalesce(n.name, o.name), case when n.name is null then o.value else n.value end)
          from pg_catalog.unnest(new_row) as n full join pg_catalog.unnest(old_row) as o on o.name = n.name
          where coalesce(n.is_selectable, o.is_selectable)
            and (selection.columns is null or coalesce(n.name, o.name) = any (selection.columns || key))
            and (not is_too_large or pg_catalog.octet_length(n.value::text) <= 64)
        ));
      end if;
      if action <> 'INSERT' then
        document := document || pg_catalog.jsonb_build_object('old_record', (
          select pg_catalog.jsonb_object_agg(o.name, o.value)
          from pg_catalog.unnest(old_row) as o
          where o.is_selectable
            and (selection.columns is null or o.name = any (selection.columns || key))
            and (not is_too_large or pg_catalog.octet_length(o.value::text) <= 64)
            and (action = 'UPDATE' or not has_policies or o.is_pkey)
        ));
      end if;
      return query select
        document,
        has_policies,
        array(select id from pg_catalog.unnest(visible_ids) as id where id = any (selection.ids)),
        case when is_too_large then array['Error 413: Payload Too Large'] else '{}' end;
    end loop;
  end loop;

  if exists (select from pg_prepared_statements where name = 'walrus_rls_stmt') then
    deallocate walrus_rls_stmt;
  end if;
end
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format('grant execute on function realtime.apply_rls(jsonb, int) to %I', grantee);
  end loop;
end
$$;
