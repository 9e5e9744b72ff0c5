-- Presence for every channel of a tenant.
alter table tenants add column presence_enabled boolean not null default false;
