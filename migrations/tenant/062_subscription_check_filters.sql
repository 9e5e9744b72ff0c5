-- Refuses filters and columns that the subscriber could not read or PostgreSQL could not compare, and puts both in one order, so that
-- the same subscription is the same row (spec: postgres-changes 3.3).
create function realtime.subscription_check_filters() returns trigger
language plpgsql
as $$
declare
  readable text[];
  filter realtime.user_defined_filter;
  column_type regtype;
  operator text;
  wanted text;
  element_count int;
begin
  select coalesce(pg_catalog.array_agg(attname::text), '{}') into readable
  from pg_attribute
  where attrelid = new.entity
    and attnum > 0
    and not attisdropped
    and pg_catalog.has_column_privilege((new.claims ->> 'role')::name, attrelid, attnum, 'select');

  foreach filter in array coalesce(new.filters, '{}') loop
    if filter.column_name is null or filter.column_name <> all (readable) then
      raise exception 'invalid column for filter %', filter.column_name;
    end if;
    select atttypid into column_type
    from pg_attribute
    where attrelid = new.entity and attname = filter.column_name and not attisdropped;
    -- The operator that the comparison will use, for those that not every type has.
    operator := case filter.op when 'like' then '~~' when 'ilike' then '~~*' when 'match' then '~' when 'imatch' then '~*' end;

    if operator is not null and not exists (
      select from pg_operator
      where oprname = operator and oprleft = column_type
        and (filter.op in ('like', 'ilike') or (oprright = column_type and oprresult = 'boolean'::regtype))
    ) then
      raise exception 'operator % requires a text-compatible column type, got %', filter.op, column_type;
    end if;

    if filter.op = 'in' then
      execute pg_catalog.format('select pg_catalog.cardinality(%L::%s[])', filter.value, column_type::text) into element_count;
      if element_count > 100 then
        raise exception 'too many values for `in` filter. Maximum 100';
      end if;
    elsif filter.op = 'is' then
      if filter.value is null or filter.value not in ('null', 'true', 'false', 'unknown') then
        raise exception 'invalid value for is filter: must be null, true, false, or unknown';
      end if;
      if filter.value <> 'null' and column_type <> 'boolean'::regtype then
        raise exception 'is % filter requires a boolean column, got %', filter.value, column_type;
      end if;
    elsif filter.op in ('match', 'imatch') then
      begin
        perform '' ~ filter.value;
      exception when invalid_regular_expression then
        raise exception 'invalid regular expression for % filter: %', filter.op, sqlerrm;
      end;
    elsif operator is null then
      perform realtime."cast"(filter.value, column_type);
    end if;
  end loop;

  foreach wanted in array coalesce(new.selected_columns, '{}') loop
    if wanted is null or wanted <> all (readable) then
      raise exception 'invalid column for select %', wanted;
    end if;
  end loop;

  new.filters := array(
    select f from pg_catalog.unnest(new.filters) as f order by f.column_name, f.op, f.value, f.negate
  );
  if new.selected_columns is not null then
    new.selected_columns := array(select c from pg_catalog.unnest(new.selected_columns) as c order by c);
  end if;
  return new;
end
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format('grant execute on function realtime.subscription_check_filters() to %I', grantee);
  end loop;
end
$$;
