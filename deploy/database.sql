-- What the database of compose.yaml needs before the server meets it; the rest the server makes itself (migrations/).
create schema if not exists _realtime;

-- The tables that clients may follow: alter publication supabase_realtime add table …
create publication supabase_realtime;
