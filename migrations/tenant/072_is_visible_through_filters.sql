-- Whether a row passes the filters of a subscription: true without filters; otherwise every filter has to find its column and to say yes
-- (spec: postgres-changes 5.6).
create function realtime.is_visible_through_filters(columns realtime.wal_column[], filters realtime.user_defined_filter[])
returns boolean
language sql stable
as $$
  select coalesce(
    pg_catalog.bool_and(
      c.name is not null
      and coalesce(realtime.check_equality_op(f.op, c.type_oid::regtype, c.value #>> '{}', f.value, f.negate), false)
    ),
    true
  )
  from pg_catalog.unnest(filters) as f
  left join pg_catalog.unnest(columns) as c on c.name = f.column_name
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format(
      'grant execute on function realtime.is_visible_through_filters(realtime.wal_column[], realtime.user_defined_filter[]) to %I',
      grantee
    );
  end loop;
end
$$;
