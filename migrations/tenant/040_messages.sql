-- Messages that become broadcasts, one partition a day (spec: tenant-database 4.2). Policies on it are the users'.
create table realtime.messages (
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  updated_at timestamp without time zone not null default now(),
  inserted_at timestamp without time zone not null default now(),
  id uuid not null default gen_random_uuid(),
  binary_payload bytea,
  primary key (id, inserted_at)
) partition by range (inserted_at);

alter table realtime.messages add constraint messages_payload_exclusive
  check (payload is null or binary_payload is null) not valid;
alter table realtime.messages enable row level security;

grant select, insert, update on realtime.messages to anon, authenticated, service_role;

do $$
declare
  grantee text;
begin
  for grantee in select rolname from pg_roles where rolname in ('postgres', 'dashboard_user') loop
    execute format('grant all on realtime.messages to %I', grantee);
  end loop;
  -- Given away only where it does not lock us out: the owner's rights have to stay with whoever migrates.
  if pg_has_role(current_user, 'supabase_realtime_admin', 'usage') then
    begin
      alter table realtime.messages owner to supabase_realtime_admin;
    exception when insufficient_privilege then
      null;
    end;
  end if;
end
$$;
