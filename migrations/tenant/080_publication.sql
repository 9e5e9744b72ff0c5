-- The tables whose changes are published: none, until somebody adds some. Supabase's image brings it along; plain PostgreSQL does not.
do $$
begin
  create publication supabase_realtime;
exception when duplicate_object or unique_violation then
  null;
end
$$;
