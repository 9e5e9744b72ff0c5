-- What the load tenant's database must hold beyond a Supabase project's: policies for the private channels of the load, whom
-- they know, and messages to be replayed. Runs after the server's first connection, which makes schema realtime; may run again.
--
-- psql variables:
--   policy    true (the default): everybody may read and write everywhere. The cheapest question that can be asked.
--             look_up: auth.uid() and realtime.topic() are looked up in two tables, as an application's policies do.
--   messages  messages written for each of 1,000 topics, for joins with --replay. None by default.

\set ON_ERROR_STOP on
set client_min_messages = warning;

\if :{?policy} \else
  \set policy true
\endif
\if :{?messages} \else
  \set messages 0
\endif
select :'policy' = 'look_up' as looks_up \gset

-- Users and topics by the numbers that the harness gives them (--tokens and --topics).
create table if not exists public.load_users (id uuid primary key, team int not null);
create table if not exists public.load_rooms (topic text primary key, team int not null);
insert into public.load_users
  select ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, 1 from generate_series(0, 9999) as number
  on conflict do nothing;
insert into public.load_rooms
  select 'load-' || lpad(number::text, 6, '0'), 1 from generate_series(0, 9999) as number
  on conflict do nothing;
grant select on public.load_users, public.load_rooms to authenticated;
analyze public.load_users, public.load_rooms;

drop policy if exists load_reads on realtime.messages;
drop policy if exists load_writes on realtime.messages;
\if :looks_up
  create policy load_reads on realtime.messages for select to authenticated using (
    exists (
      select from public.load_users as member join public.load_rooms as room using (team)
      where member.id = auth.uid() and room.topic = realtime.topic()));
  create policy load_writes on realtime.messages for insert to authenticated with check (
    exists (
      select from public.load_users as member join public.load_rooms as room using (team)
      where member.id = auth.uid() and room.topic = realtime.topic()));
\else
  create policy load_reads  on realtime.messages for select to authenticated using (true);
  create policy load_writes on realtime.messages for insert to authenticated with check (true);
\endif

-- Each has the harness's stamp (src/stamp.rs: sender, number, time) and a moment of its own, so that losses and order can be told.
delete from realtime.messages where :messages > 0 and topic like 'load-%';
insert into realtime.messages (payload, event, topic, private, extension, inserted_at)
  select
    jsonb_build_object('load', 'stamped:' || lpad(to_hex(room), 8, '0') || lpad(to_hex(number - 1), 8, '0') || repeat('0', 16)),
    'm', 'load-' || lpad(room::text, 6, '0'), true, 'broadcast', now() - (:messages - number) * interval '1 millisecond'
  from generate_series(0, 999) as room, generate_series(1, :messages) as number;
