-- Features for a part of the tenants.
alter table feature_flags
  add column rollout_percentage integer not null default 100,
  add column bucket_key character varying(255),
  add constraint rollout_percentage_must_be_between_0_and_100 check (rollout_percentage between 0 and 100);
