-- When a tenant's secrets were encrypted anew.
alter table tenants add column gcm_migrated_at timestamp(0) without time zone;
