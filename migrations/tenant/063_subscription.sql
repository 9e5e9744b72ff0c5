-- Who asked for row changes (spec: postgres-changes 3.1). Dashboards read it, and upstream's functions work from it.
create table realtime.subscription (
  id bigint generated always as identity,
  subscription_id uuid not null,
  entity regclass not null,
  filters realtime.user_defined_filter[] not null default '{}',
  claims jsonb not null,
  claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
  created_at timestamp without time zone not null default timezone('utc', now()),
  action_filter text default '*',
  selected_columns text[],
  constraint pk_subscription primary key (id),
  constraint subscription_action_filter_check check (action_filter in ('*', 'INSERT', 'UPDATE', 'DELETE'))
);

create index ix_realtime_subscription_entity on realtime.subscription using btree (entity);

-- The name is what PostgreSQL leaves of ..._selected_columns_key.
create unique index subscription_subscription_id_entity_filters_action_filter_selec
  on realtime.subscription (subscription_id, entity, filters, action_filter, coalesce(selected_columns, '{}'));

create trigger tr_check_filters before insert or update on realtime.subscription
  for each row execute function realtime.subscription_check_filters();

grant select on realtime.subscription to anon, authenticated, service_role;
grant usage on sequence realtime.subscription_id_seq to anon, authenticated, service_role;

do $$
declare
  grantee text;
begin
  for grantee in select rolname from pg_roles where rolname in ('postgres', 'dashboard_user') loop
    execute format('grant all on realtime.subscription to %I', grantee);
    execute format('grant all on sequence realtime.subscription_id_seq to %I', grantee);
  end loop;
end
$$;
