-- The roles that a token may name, and the one that owns what users write policies on (spec: tenant-database 3).
-- Roles belong to the whole cluster: another database may be making the same ones at this moment, and existing ones are left as they are.
do $$
declare
  wanted record;
  made text[] := '{}';
begin
  for wanted in
    select * from (values
      ('anon', 'noinherit'),
      ('authenticated', 'noinherit'),
      ('service_role', 'noinherit bypassrls'),
      ('supabase_realtime_admin', 'noinherit')
    ) as roles (name, attributes)
    where not exists (select from pg_roles where rolname = roles.name)
  loop
    begin
      execute format('create role %I nologin %s', wanted.name, wanted.attributes);
      made := made || wanted.name;
    exception when duplicate_object or unique_violation then
      null;
    end;
  end loop;

  if 'supabase_realtime_admin' = any (made) then
    grant anon, authenticated, service_role to supabase_realtime_admin;
    alter role supabase_realtime_admin set search_path = public, extensions, realtime;
    -- Only superusers may, and only PostgreSQL 15 and later know it; nothing but upstream's list_changes asks for it.
    if current_setting('server_version_num')::int >= 150000
       and (select rolsuper from pg_roles where rolname = current_user) then
      execute 'grant set on parameter log_min_messages to supabase_realtime_admin';
    end if;
  end if;

  -- Who is no superuser can only become a role that it is a member of.
  if not (select rolsuper from pg_roles where rolname = current_user) then
    for wanted in select unnest(made) as name loop
      execute format('grant %I to %I', wanted.name, current_user);
    end loop;
  end if;
end
$$;
