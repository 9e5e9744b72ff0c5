-- The value as JSON (spec: tenant-database 4.3). The type's name carries no length, which cuts char(n) and bit(n) to one: upstream's
-- behaviour.
create function realtime."cast"(val text, type_ regtype) returns jsonb
language plpgsql immutable
as $$
declare
  result jsonb;
begin
  if val is null then
    return null;
  end if;
  if type_ = 'bytea'::regtype then
    return pg_catalog.to_jsonb(val);
  end if;
  execute pg_catalog.format('select pg_catalog.to_jsonb(%L::%s)', val, type_::text) into result;
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
    execute format('grant execute on function realtime."cast"(text, regtype) to %I', grantee);
  end loop;
end
$$;
