-- The same with all thirteen (spec: postgres-changes 5.6). What is compared with null is null, however negated; `is` and `isdistinct` have
-- a negation of their own.
create function realtime.check_equality_op(
  op realtime.equality_op, type_ regtype, val_1 text, val_2 text, negate boolean
) returns boolean
language plpgsql stable
as $$
declare
  inverts boolean := coalesce(negate, false);
  value text := pg_catalog.format('%L::%s', val_1, type_::text);
  other text := pg_catalog.format('%L::%s', val_2, type_::text);
  operator text := case op
    when 'eq' then '=' when 'neq' then '<>' when 'lt' then '<' when 'lte' then '<=' when 'gt' then '>' when 'gte' then '>='
    when 'like' then 'like' when 'ilike' then 'ilike' when 'match' then '~' when 'imatch' then '~*'
  end;
  condition text;
  result boolean;
begin
  if operator is not null then
    condition := pg_catalog.format('(%s %s %s)', value, operator, other);
  elsif op = 'in' then
    condition := pg_catalog.format('(%s = any (%L::%s[]))', value, val_2, type_::text);
  elsif op = 'is' then
    if val_2 is null or val_2 not in ('null', 'true', 'false', 'unknown') then
      raise exception 'invalid value for is filter: must be null, true, false, or unknown';
    end if;
    execute pg_catalog.format('select %s is %s %s', value, case when inverts then 'not' end, val_2) into result;
    return result;
  elsif op = 'isdistinct' then
    execute pg_catalog.format('select %s is %s distinct from %s', value, case when inverts then 'not' end, other) into result;
    return result;
  else
    raise exception 'unsupported equality operator: %', op;
  end if;
  execute pg_catalog.format('select %s %s', case when inverts then 'not' end, condition) into result;
  return result;
end
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format(
      'grant execute on function realtime.check_equality_op(realtime.equality_op, regtype, text, text, boolean) to %I',
      grantee
    );
  end loop;
end
$$;
