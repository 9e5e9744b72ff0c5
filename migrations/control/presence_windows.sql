-- A tenant's own bound on presence calls.
alter table tenants
  add column max_client_presence_events_per_window integer,
  add column client_presence_window_ms integer;
