-- Upstream's 20260514120000: a message's body may be bytes. The check is not validated, so that no old row is read.
alter table realtime.messages add column if not exists binary_payload bytea;

do $$
begin
  if not exists (
    select from pg_constraint
    where conrelid = 'realtime.messages'::regclass and conname = 'messages_payload_exclusive'
  ) then
    alter table realtime.messages add constraint messages_payload_exclusive
      check (payload is null or binary_payload is null) not valid;
  end if;
end
$$;
