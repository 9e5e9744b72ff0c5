-- A tenant has a secret or a key set.
alter table tenants alter column jwt_secret drop not null;
alter table tenants add constraint jwt_secret_or_jwt_jwks_required check (jwt_secret is not null or jwt_jwks is not null);
