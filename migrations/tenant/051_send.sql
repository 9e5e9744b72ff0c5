-- Sends a message to a topic: the row is the message (spec: broadcast-from-database 5.1). Whatever goes wrong becomes a warning,
-- because the caller's transaction, often a trigger's, is worth more than the message.
create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql
as $$
declare
  row_id uuid := pg_catalog.gen_random_uuid();
  sent_at timestamp without time zone := pg_catalog.timezone('utc', pg_catalog.now());
begin
  -- The sender's own id stays, even a null.
  if not payload ? 'id' then
    payload := pg_catalog.jsonb_set(payload, '{id}', pg_catalog.to_jsonb(row_id));
  end if;

  -- Until the transaction ends, so that policies and what follows can ask realtime.topic().
  execute pg_catalog.format('set local realtime.topic to %L', topic);

  -- The timestamps are in UTC whatever the session's zone: partitions and replay count so.
  insert into realtime.messages (id, payload, event, topic, private, extension, inserted_at, updated_at)
  values (row_id, payload, event, topic, private, 'broadcast', sent_at, sent_at);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;
