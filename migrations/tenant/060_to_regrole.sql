-- The role of a subscription's claims (spec: tenant-database 4.3, postgres-changes 3.3). Immutable, as the generated column demands, though
-- a role can be renamed: upstream declares it so.
create function realtime.to_regrole(role_name text) returns regrole
language sql immutable
as $$
  select role_name::regrole
$$;

do $$
declare
  grantee text;
begin
  for grantee in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'postgres', 'dashboard_user')
  loop
    execute format('grant execute on function realtime.to_regrole(text) to %I', grantee);
  end loop;
end
$$;
