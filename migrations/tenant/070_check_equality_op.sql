-- Whether a value passes a filter, with the seven operators of before 2026 (spec: tenant-database 4.3). This server filters by itself;
-- this and what follows up to 077 is here for who calls it, and for upstream, should it take the database over.
create function realtime.check_equality_op(op realtime.equality_op, type_ regtype, val_1 text, val_2 text) returns boolean
language plpgsql immutable
as $$
declare
  operator text := case op
    when 'eq' then '=' when 'neq' then '<>' when 'lt' then '<' when 'lte' then '<=' when 'gt' then '>' when 'gte' then '>='
  end;
  result boolean;
begin
  if op = 'in' then
    execute pg_catalog.format('select %L::%s = any (%L::%s[])', val_1, type_::text, val_2, type_::text) into result;
  elsif operator is null then
    raise exception 'unsupported equality operator: %', op;
  else
    execute pg_catalog.format('select %L::%s %s %L::%s', val_1, type_::text, operator, val_2, type_::text) into result;
  end if;
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
    execute format('grant execute on function realtime.check_equality_op(realtime.equality_op, regtype, text, text) to %I', grantee);
  end loop;
end
$$;
