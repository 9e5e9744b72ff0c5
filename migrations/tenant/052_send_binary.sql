-- The same for bytes (spec: broadcast-from-database 5.2). A name of its own: literals without a type would be ambiguous.
create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true) returns void
language plpgsql
as $$
declare
  sent_at timestamp without time zone := pg_catalog.timezone('utc', pg_catalog.now());
begin
  execute pg_catalog.format('set local realtime.topic to %L', topic);

  insert into realtime.messages (id, binary_payload, event, topic, private, extension, inserted_at, updated_at)
  values (pg_catalog.gen_random_uuid(), payload, event, topic, private, 'broadcast', sent_at, sent_at);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;
