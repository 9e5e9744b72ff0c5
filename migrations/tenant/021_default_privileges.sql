-- Whatever is made here belongs to the owner of the project and to the dashboard as well, where there are such (spec: tenant-database 4.2).
do $$
declare
  grantee text;
  kind text;
begin
  for grantee in select rolname from pg_roles where rolname in ('postgres', 'dashboard_user') and rolname <> current_user loop
    foreach kind in array array['tables', 'functions', 'sequences'] loop
      execute format('alter default privileges in schema realtime grant all on %s to %I', kind, grantee);
    end loop;
  end loop;
end
$$;
