-- Whether a row passes the filters of a subscription (spec: tenant-database 4.3, postgres-changes 5.6). This server filters by itself; these
-- are here for who calls them, and for upstream, should it take the database over.

-- The seven operators of before 2026.
create or replace function realtime.check_equality_op(op realtime.equality_op, type_ regtype, val_1 text, val_2 text) returns boolean
language plpgsql immutable
as $$
declare
  operator text := case op
    when 'eq' then '=' when 'neq' then '<>' when 'lt' then '<' when 'lte' then '<=' when 'gt' then '>' when 'gte' then '>='
  end;
  result boolean;
begin
  if op = 'in' then
    execute format('select %L::%s = any (%L::%s[])', val_1, type_::text, val_2, type_::text) into result;
  elsif operator is null then
    raise exception 'unsupported equality operator: %', op;
  else
    execute format('select %L::%s %s %L::%s', val_1, type_::text, operator, val_2, type_::text) into result;
  end if;
  return result;
end
$$;

-- All thirteen. What is compared with null is null, however negated; `is` and `isdistinct` have a negation of their own.
create or replace function realtime.check_equality_op(
  op realtime.equality_op, type_ regtype, val_1 text, val_2 text, negate boolean
) returns boolean
language plpgsql stable
as $$
declare
  inverts boolean := coalesce(negate, false);
  value text := format('%L::%s', val_1, type_::text);
  other text := format('%L::%s', val_2, type_::text);
  operator text := case op
    when 'eq' then '=' when 'neq' then '<>' when 'lt' then '<' when 'lte' then '<=' when 'gt' then '>' when 'gte' then '>='
    when 'like' then 'like' when 'ilike' then 'ilike' when 'match' then '~' when 'imatch' then '~*'
  end;
  condition text;
  result boolean;
begin
  if operator is not null then
    condition := format('(%s %s %s)', value, operator, other);
  elsif op = 'in' then
    condition := format('(%s = any (%L::%s[]))', value, val_2, type_::text);
  elsif op = 'is' then
    if val_2 is null or val_2 not in ('null', 'true', 'false', 'unknown') then
      raise exception 'invalid value for is filter: must be null, true, false, or unknown';
    end if;
    execute format('select %s is %s %s', value, case when inverts then 'not' end, val_2) into result;
    return result;
  elsif op = 'isdistinct' then
    execute format('select %s is %s distinct from %s', value, case when inverts then 'not' end, other) into result;
    return result;
  else
    raise exception 'unsupported equality operator: %', op;
  end if;
  execute format('select %s %s', case when inverts then 'not' end, condition) into result;
  return result;
end
$$;

-- True without filters; otherwise every filter has to find its column and to say yes.
create or replace function realtime.is_visible_through_filters(columns realtime.wal_column[], filters realtime.user_defined_filter[])
returns boolean
language sql stable
as $$
  select coalesce(
    bool_and(
      c.name is not null
      and coalesce(realtime.check_equality_op(f.op, c.type_oid::regtype, c.value #>> '{}', f.value, f.negate), false)
    ),
    true
  )
  from unnest(filters) as f
  left join unnest(columns) as c on c.name = f.column_name
$$;

do $$
declare
  grantee text;
  function text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    foreach function in array array[
      'check_equality_op(realtime.equality_op, regtype, text, text)',
      'check_equality_op(realtime.equality_op, regtype, text, text, boolean)',
      'is_visible_through_filters(realtime.wal_column[], realtime.user_defined_filter[])'
    ] loop
      execute format('grant execute on function realtime.%s to %I', function, grantee);
    end loop;
  end loop;
end
$$;
