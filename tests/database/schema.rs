//! Schema `realtime`: set up, completed, left alone, and what is missing to do so. Partitions.

use std::sync::Arc;

use realtime::control::database::migrate::{self, Migrated, MigrationError};
use realtime::control::database::{Connection, connect, partitions};

use crate::postgres::{Cluster, Database, Kind};

tests![
    supabase_database_gets_everything_once,
    plain_database_gets_roles_and_no_publication,
    database_that_was_reset_is_set_up_again,
    servers_at_the_same_time_do_not_collide,
    newest_upstream_is_left_alone,
    seed_gets_additions_only,
    seed_of_somebody_else_names_the_privileges,
    schema_without_bookkeeping_is_completed,
    functions_that_exist_are_never_rewritten,
    functions_of_other_arguments_are_others,
    functions_call_no_builtin_of_somebody_else,
    unpartitioned_messages_are_refused,
    upstream_without_messages_is_refused,
    role_without_rights_is_told_which,
    role_that_owns_the_database_needs_no_superuser,
    send_is_in_utc_wherever_the_session_is,
    partitions_are_made_beside_a_reader,
    partitions_are_made_once_and_dropped_late,
    partition_that_cannot_be_made_costs_no_other,
];

/// What everything that a migration leaves is called; its bodies and privileges too, so that a rewrite shows.
const EVERYTHING: &str = "
select 'relation ' || c.oid::regclass || ' ' || c.relkind::text || ' ' || pg_get_userbyid(relowner) || ' ' || coalesce(relacl::text, '')
  from pg_class c where relnamespace = to_regnamespace('realtime')
union all select 'column ' || attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull
  from pg_attribute join pg_class c on c.oid = attrelid where relnamespace = to_regnamespace('realtime') and attnum > 0
union all select 'function ' || p.oid::regprocedure || ' ' || md5(prosrc) || coalesce(proacl::text, '')
  from pg_proc p where pronamespace = to_regnamespace('realtime')
union all select 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)
  from pg_constraint where connamespace = to_regnamespace('realtime')
union all select 'policy ' || polname from pg_policy
union all select 'trigger ' || tgname from pg_trigger
union all select 'publication ' || pubname || ' ' || pg_get_userbyid(pubowner) from pg_publication
union all select 'schema ' || nspname || ' ' || array(select unnest(nspacl)::text order by 1)::text from pg_namespace where nspname = 'realtime'
order by 1";

/// The 17th second of 24 November 2026, and its day in partitions' names.
const NOW: i64 = 1_795_478_417;
const SECONDS_PER_DAY: i64 = 86_400;

/// What was there before and is not there, or not the same, after.
fn lost<'a>(before: &'a str, after: &str) -> Vec<&'a str> {
    let is_there = |line: &str| after.lines().any(|other| other == line);
    before.lines().filter(|line| !is_there(line)).collect()
}

async fn open(database: &Database) -> Connection {
    let opened = connect(&database.settings(), "realtime_migrations").await;
    opened.expect("PostgreSQL runs")
}

/// The same database for another role, which is made if it is missing.
fn as_role(database: &Database, role: &str, attributes: &str) -> Database {
    database.sql(&format!(
        "create role {role} login {attributes} password '{}'",
        database.password
    ));
    Database {
        name: database.name.clone(),
        host: database.host.clone(),
        user: role.to_owned(),
        password: database.password.clone(),
        cluster: Arc::clone(&database.cluster),
        port: database.port,
    }
}

async fn migrated(database: &Database) -> Migrated {
    let mut connection = open(database).await;
    let outcome = migrate::migrate(&mut connection.client).await;
    outcome.unwrap_or_else(|error| panic!("{error}"))
}

async fn refused(database: &Database) -> MigrationError {
    let mut connection = open(database).await;
    let error = migrate::migrate(&mut connection.client).await;
    error.expect_err("it cannot be done")
}

async fn is_needed(database: &Database) -> bool {
    let connection = open(database).await;
    let answer = migrate::is_needed(&connection.client).await;
    answer.expect("catalogs can be read")
}

async fn supabase_database_gets_everything_once(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    assert!(is_needed(&database).await);
    let first = migrated(&database).await;
    assert_eq!(
        first.applied.first(),
        Some(&"default_privileges"),
        "roles and schema are there"
    );
    assert_eq!(first.notes, [""; 0]);
    assert!(!is_needed(&database).await);
    let before = database.sql(EVERYTHING);
    let again = Migrated {
        upstream_versions: 81,
        ..Migrated::default()
    };
    assert_eq!(migrated(&database).await, again);
    assert_eq!(database.sql(EVERYTHING), before);

    let check = |question: &str, expected: &str| {
        assert_eq!(database.sql(question), expected, "{question}");
    };
    check(
        "select relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner) from pg_class where oid = 'realtime.messages'::regclass",
        "t|f|supabase_realtime_admin",
    );
    check("select count(*), min(pg_get_userbyid(relowner)) from pg_inherits join pg_class c on c.oid = inhrelid
        where inhparent = 'realtime.messages'::regclass", "5|supabase_realtime_admin");
    check(
        "select has_table_privilege('anon', 'realtime.messages', 'select, insert, update'), has_table_privilege('anon', 'realtime.messages', 'delete')",
        "t|f",
    );
    check(
        "select has_table_privilege('anon', 'realtime.messages_' || to_char(timezone('utc', now()), 'YYYY_MM_DD'), 'select')",
        "f",
    );
    check(
        "select has_table_privilege('dashboard_user', 'realtime.subscription', 'delete')",
        "t",
    );
    // Upstream can take it over at any time.
    check(
        "select count(*), min(version), max(version), count(inserted_at) from realtime.schema_migrations",
        "81|20211116024918|20260709120000|81",
    );
    check(
        "select to_regclass('realtime.rs_schema_migrations') is null",
        "t",
    );
    check(
        "select has_table_privilege('postgres', 'realtime.schema_migrations', 'insert'),
           has_table_privilege('anon', 'realtime.schema_migrations', 'select')",
        "f|f",
    );
    check(
        "select proconfig from pg_proc where proname = 'list_changes'",
        "{log_min_messages=fatal}",
    );
    // Today has a place from the first moment on.
    check(
        "select realtime.send('{}', 'e', 'room'); select count(*) from realtime.messages",
        "\n1",
    );
    // The owner of the project writes policies.
    let owner = database.client("postgres").await;
    owner
        .batch_execute("create policy p on realtime.messages for select to anon using (true)")
        .await
        .expect("it is a member of the owner");
}

async fn plain_database_gets_roles_and_no_publication(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Plain);
    let first = migrated(&database).await;
    assert_eq!(first.applied.first(), Some(&"roles"));
    assert!(
        first
            .notes
            .join("\n")
            .contains("create publication supabase_realtime;"),
        "{:?}",
        first.notes
    );
    assert_eq!(migrated(&database).await, Migrated::default());
    // Grants to the dashboard are missing, so it is not as upstream leaves it.
    assert_eq!(
        database.sql(
            "select to_regclass('realtime.schema_migrations') is null,
               (select count(*) > 10 from realtime.rs_schema_migrations)"
        ),
        "t|t"
    );
    database.sql("drop function realtime.send_binary");
    assert_eq!(migrated(&database).await.applied, ["send_binary"]);
    assert_eq!(
        database.sql("select string_agg(rolname || rolcanlogin || rolbypassrls || rolinherit, ' ' order by rolname) from pg_roles
            where rolname !~ '^pg_' and rolname <> 'postgres'"),
        "anonfalsefalsefalse authenticatedfalsefalsefalse service_rolefalsetruefalse supabase_realtime_adminfalsefalsefalse"
    );
    assert_eq!(
        database.sql(
            "set role service_role; select realtime.send('{}', 'e', 'room'); reset role;
        select count(*) from realtime.messages"
        ),
        "\n1"
    );
    assert_eq!(
        database.sql("select count(*) from pg_publication"),
        "0",
        "that is the operator's"
    );
}

async fn database_that_was_reset_is_set_up_again(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    migrated(&database).await;
    let before = database.sql(EVERYTHING);
    database.sql("drop schema realtime cascade; create schema realtime");
    assert!(is_needed(&database).await);
    assert_eq!(migrated(&database).await.applied.first(), Some(&"schema"));
    assert_eq!(lost(&before, &database.sql(EVERYTHING)), [""; 0]);
    assert!(!is_needed(&database).await);
    database.sql("drop schema realtime cascade");
    assert_eq!(migrated(&database).await.upstream_versions, 81);
}

async fn servers_at_the_same_time_do_not_collide(cluster: Arc<Cluster>) {
    // Roles are made as well, beside a database of the same cluster.
    let database = cluster.database(Kind::Plain);
    database.sql("create database other");
    let other = Database {
        name: "other".to_owned(),
        host: database.host.clone(),
        user: database.user.clone(),
        password: database.password.clone(),
        cluster: Arc::clone(&database.cluster),
        port: database.port,
    };
    let all = tokio::join!(
        migrated(&database),
        migrated(&other),
        migrated(&database),
        migrated(&other),
        migrated(&database),
        migrated(&other),
    );
    let each = [&all.0, &all.2, &all.4];
    let workers = each.iter().filter(|one| !one.applied.is_empty()).count();
    assert_eq!(workers, 1, "{each:?}");
    for database in [&database, &other] {
        assert_eq!(migrated(database).await, Migrated::default());
        assert_eq!(
            database.sql(
                "select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass"
            ),
            "5"
        );
    }
}

/// Upstream's bookkeeping with these versions.
fn versions(list: &str) -> String {
    format!(
        "create table realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0));
         insert into realtime.schema_migrations select unnest(array[{list}]), now();"
    )
}

/// What an upstream of November 2025 left, as far as it matters here: no binary payload, a `send` of before the id was added.
const SEED: &str = "
create table realtime.messages (
  topic text not null, extension text not null, payload jsonb, event text, private boolean default false,
  updated_at timestamp not null default now(), inserted_at timestamp not null default now(), id uuid not null default gen_random_uuid(),
  primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages enable row level security;
alter table realtime.messages owner to supabase_realtime_admin;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;
create function realtime.topic() returns text language sql stable as $$ select nullif(current_setting('realtime.topic', true), '') $$;
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void language plpgsql as $$
begin
  insert into realtime.messages (payload, event, topic, private, extension) values (payload, event, topic, private, 'broadcast');
exception when others then raise warning 'ErrorSendingBroadcastMessage: %', sqlerrm;
end $$;
create function realtime.broadcast_changes(topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW') returns void language plpgsql as $$ begin raise exception 'the old one'; end $$;
create policy theirs on realtime.messages for select to authenticated using (true);
create function public.theirs() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger theirs after insert on realtime.messages for each row execute function public.theirs();
create publication supabase_realtime_messages_publication for table realtime.messages;
create table public.uses_send (id int);
create function public.call_send() returns void language sql as $$ select realtime.send('{\"a\": 1}', 'e', 'room') $$;
";

async fn newest_upstream_is_left_alone(cluster: Arc<Cluster>) {
    // The second one is from a future that nobody here knows, whose objects may have other names.
    for versions_of in [
        "20211116024918, 20260709120000",
        "20211116024918, 20991231000000",
    ] {
        let database = cluster.database(Kind::Supabase);
        database.sql(SEED);
        database.sql(&versions(versions_of));
        let before = database.sql(EVERYTHING);
        assert!(!is_needed(&database).await);
        let outcome = migrated(&database).await;
        assert_eq!((outcome.applied, outcome.upstream_versions), (vec![], 2));
        assert_eq!(database.sql(EVERYTHING), before);
    }
}

async fn seed_gets_additions_only(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(SEED);
    database.sql(&versions("20211116024918, 20241030150047, 20250714121412"));
    let before = database.sql(EVERYTHING);
    let outcome = migrated(&database).await;
    assert_eq!(
        outcome.applied,
        ["binary_payload", "replay_index", "send", "send_binary"]
    );
    assert_eq!(outcome.upstream_versions, 5);
    assert_eq!(
        database.sql(
            "select string_agg(version::text, ' ' order by version) from realtime.schema_migrations"
        ),
        "20211116024918 20241030150047 20250714121412 20250905041441 20260514120000"
    );
    let lost = lost(&before, &database.sql(EVERYTHING));
    assert!(
        lost.len() == 1 && lost[0].starts_with("function realtime.send(jsonb,"),
        "{lost:?}"
    );

    let connection = open(&database).await;
    assert!(
        partitions::ensure_partitions(&connection.client, realtime::control::clock::unix_seconds())
            .await
            .is_empty()
    );
    assert_eq!(
        database.sql(
            "select public.call_send(); select payload ->> 'id' = id::text from realtime.messages"
        ),
        "\nt"
    );
    let again = migrated(&database).await;
    assert_eq!((again.applied, again.upstream_versions), (vec![], 5));

    // An upstream that knows its id keeps its own function.
    let database = cluster.database(Kind::Supabase);
    database.sql(SEED);
    database.sql(&versions("20211116024918, 20250905041441, 20251103001201"));
    database.sql("create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)");
    assert_eq!(
        migrated(&database).await.applied,
        ["binary_payload", "send_binary"]
    );
}

async fn seed_of_somebody_else_names_the_privileges(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(SEED);
    database.sql(&versions("20211116024918, 20250714121412"));
    let role = as_role(&database, "guest_of_seed", "replication");
    let error = refused(&role).await.to_string();
    assert!(
        error.contains("grant select, insert on realtime.schema_migrations"),
        "{error}"
    );
    help(&database, &error);
    let error = refused(&role).await.to_string();
    assert!(
        error.contains(
            "alter function realtime.send(jsonb, text, text, boolean) owner to guest_of_seed;"
        ),
        "{error}"
    );
    help(&database, &error);
    assert_eq!(migrated(&role).await.applied.len(), 4);
    assert_eq!(
        database.sql("select count(*) from realtime.schema_migrations"),
        "4"
    );
}

/// Executes the statements of a refusal, as somebody who may.
fn help(database: &Database, refusal: &str) {
    let (_, statements) = refusal.split_once("execute:").expect("it says what to do");
    for statement in statements
        .split(". ")
        .filter_map(|one| one.split("; --").next())
    {
        database.sql(statement);
    }
}

async fn schema_without_bookkeeping_is_completed(cluster: Arc<Cluster>) {
    // As after a dump was restored without the table of versions.
    let database = cluster.database(Kind::Supabase);
    database.sql(SEED);
    let outcome = migrated(&database).await;
    assert!(
        !outcome.applied.contains(&"messages") && !outcome.applied.contains(&"send"),
        "{outcome:?}"
    );
    assert_eq!(outcome.upstream_versions, 0);
    assert_eq!(database.sql("select polname from pg_policy"), "theirs");
    assert_eq!(migrated(&database).await, Migrated::default());
}

/// Makes every function of the schema somebody else's: another body, and nobody may execute it.
const FUNCTIONS_OF_SOMEBODY_ELSE: &str = "do $$ declare one regprocedure; begin
  for one in select oid from pg_proc where pronamespace = 'realtime'::regnamespace and prosrc not like ' -- theirs%' loop
    execute replace(pg_get_functiondef(one), 'AS $function$', 'AS $function$ -- theirs');
    execute 'revoke all on function ' || one || ' from public, anon, authenticated, service_role, postgres, dashboard_user';
  end loop; end $$";

async fn functions_that_exist_are_never_rewritten(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    migrated(&database).await;
    // Not as upstream leaves it: results and parameters that cannot be replaced, as an old upstream's `list_changes` has.
    database.sql(
        "drop table realtime.schema_migrations; drop table realtime.subscription;
         drop function realtime.list_changes, realtime.apply_rls, realtime.wal2json_escape_identifier;
         create function realtime.list_changes(name, name, int, int) returns setof realtime.wal_rls language sql
           as $$\n select null::realtime.wal_rls $$;
         create function realtime.apply_rls(change jsonb, int) returns setof realtime.wal_rls language sql
           as $$\n select null::realtime.wal_rls $$;
         create function realtime.wal2json_escape_identifier(text) returns varchar language sql as $$\n select $1::varchar $$;",
    );
    let functions = database.sql(
        "select p.oid::regprocedure from pg_proc p where pronamespace = 'realtime'::regnamespace",
    );
    assert_eq!(functions.lines().count(), 15, "{functions}");
    for function in functions.lines() {
        database.sql(FUNCTIONS_OF_SOMEBODY_ELSE);
        let before = database.sql(EVERYTHING);
        // The table refers to some of them.
        database.sql(&format!(
            "drop table if exists realtime.subscription; drop function {function}"
        ));
        let mut applied = migrated(&database).await.applied;
        applied.retain(|step| *step != "subscription");
        assert_eq!(applied.len(), 1, "{function}: {applied:?}");
        let lost = lost(&before, &database.sql(EVERYTHING));
        let of_functions: Vec<&str> = lost
            .into_iter()
            .filter(|line| line.starts_with("function"))
            .collect();
        assert_eq!(of_functions.len(), 1, "{function}: {of_functions:?}");
        assert!(
            of_functions[0].starts_with(&format!("function {function} ")),
            "{of_functions:?}"
        );
    }
    assert_eq!(migrated(&database).await, Migrated::default());
}

async fn functions_of_other_arguments_are_others(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        "create function realtime.quote_wal2json(text) returns text language sql as $$ select 'theirs' $$;
         create function realtime.send(json, text, text, boolean) returns void language sql as $$ $$;",
    );
    let applied = migrated(&database).await.applied;
    assert!(
        applied.contains(&"quote_wal2json") && applied.contains(&"send"),
        "{applied:?}"
    );
    assert_eq!(migrated(&database).await, Migrated::default());
    assert_eq!(
        database.sql("select realtime.quote_wal2json('a'::text), realtime.quote_wal2json('realtime.messages'::regclass)"),
        "theirs|realtime.messages"
    );
}

/// What a role that may create in `public`, everybody before PostgreSQL 15, makes there: functions that fit better than builtins do, and end
/// whoever calls them.
const TRAPS: &str = "
grant create on schema public to authenticated;
set role authenticated;
do $$ declare trap text; begin
  foreach trap in array array[
    'format(text, text)', 'format(text, text, text)', 'format(text, text, text, text)', 'format(text, text, text, text, text)',
    'format(text, text, text, text, text, text)', 'format(text, name, name)', 'format(text, text, regclass, text)',
    'jsonb_build_object(text, text, text, text, text, realtime.action)', 'jsonb_build_object(text, text, text, jsonb)',
    'jsonb_build_object(text, jsonb)', 'jsonb_build_object(text, name, text, name)', 'concat_ws(text, text, text, text)',
    'to_jsonb(text)', 'to_jsonb(int)', 'cardinality(uuid[])', 'cardinality(int[])', 'array_agg(text)', 'array_agg(uuid)',
    'unnest(realtime.wal_column[])', 'unnest(realtime.user_defined_filter[])', 'unnest(uuid[])', 'unnest(text[])',
    'array_to_string(text[], text)', 'jsonb_agg(jsonb)', 'jsonb_object_agg(text, jsonb)',
    'has_column_privilege(regrole, regclass, text, text)', 'has_column_privilege(regrole, oid, smallint, text)'
  ] loop
    execute 'create function public.' || trap || ' returns text language plpgsql as $f$ begin raise exception ''trapped''; end $f$';
  end loop;
end $$;
reset role;";

async fn functions_call_no_builtin_of_somebody_else(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    migrated(&database).await;
    database.sql("create table public.t (id int primary key, name text); alter table public.t enable row level security");
    database.sql(TRAPS);
    let client = database.client(&database.user).await;
    // The ways into the functions, with what becomes of each; the first one is a trap, so that they are known to work.
    let cases = [
        ("select format('%s', 'a'::text)", "trapped"),
        ("select realtime.to_regrole('anon'), realtime.\"cast\"('1', 'int'), realtime.\"cast\"('a', 'bytea')", ""),
        ("select realtime.check_equality_op('in', 'int', '1', '{1,2}'), realtime.check_equality_op('eq', 'int', '1', '1')", ""),
        (
            "select realtime.check_equality_op(op, 'text', 'a', 'null', true) from unnest(array['eq', 'is', 'isdistinct']::realtime.equality_op[]) op",
            "",
        ),
        ("select realtime.check_equality_op('in', 'text', 'a', '{a}', false)", ""),
        (
            "insert into realtime.subscription (subscription_id, entity, filters, claims, selected_columns)
               select gen_random_uuid(), 'public.t', array[row('id', 'in', '{1}', false)]::realtime.user_defined_filter[],
                 '{\"role\": \"service_role\"}', columns
               from (values (null::text[]), ('{id,name}')) v (columns)",
            "",
        ),
        (
            "select realtime.apply_rls(jsonb_build_object('action', action, 'schema', 'public', 'table', 't', 'timestamp', now(),
                'pk', '[{\"name\": \"id\"}]'::jsonb, 'columns', c, 'identity', c))
             from (select '[{\"name\": \"id\", \"type\": \"integer\", \"typeoid\": 23, \"value\": 1}]'::jsonb) as v (c),
               (values ('I'::text), ('U'), ('D')) as a (action)",
            "",
        ),
        ("select realtime.quote_wal2json('public.t')", ""),
        ("alter publication supabase_realtime add table public.t", ""),
        (
            "select realtime.list_changes('supabase_realtime', 'nowhere', 1, 1)",
            "replication slot \"nowhere\" does not exist",
        ),
    ];
    for (statement, expected) in cases {
        let outcome = client.batch_execute(statement).await;
        let error = outcome
            .err()
            .and_then(|error| error.as_db_error().map(|error| error.message().to_owned()));
        assert_eq!(error.unwrap_or_default(), expected, "{statement}");
    }
}

async fn unpartitioned_messages_are_refused(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql("create table realtime.messages (id bigint)");
    assert!(is_needed(&database).await, "so that somebody hears of it");
    let error = refused(&database).await;
    assert!(matches!(error, MigrationError::Unusable(_)), "{error}");
    assert!(
        error.to_string().contains("no partitioned table"),
        "{error}"
    );
}

async fn upstream_without_messages_is_refused(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(&versions("20211116024918, 20260709120000"));
    let error = refused(&database).await;
    assert!(error.to_string().contains("20260709120000"), "{error}");
    database.sql("truncate realtime.schema_migrations");
    assert!(
        migrated(&database).await.applied.contains(&"messages"),
        "an empty table says nothing"
    );
}

async fn role_without_rights_is_told_which(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Plain);
    let role = as_role(&database, "\"Guest\"", "");
    let role = Database {
        user: "Guest".to_owned(),
        ..role
    };
    let error = refused(&role).await.to_string();
    for statement in [
        "create role anon nologin noinherit; grant anon to \"Guest\";",
        "create role service_role nologin noinherit bypassrls; grant service_role to \"Guest\";",
        "create schema realtime authorization \"Guest\";",
    ] {
        assert!(error.contains(statement), "{error}");
    }
    assert_eq!(
        database.sql("select to_regnamespace('realtime') is null"),
        "t",
        "nothing was begun"
    );
    help(&database, &error);
    let outcome = migrated(&role).await;
    assert!(outcome.applied.contains(&"messages"));
    let notes = outcome.notes.join("\n");
    assert!(
        notes.contains("alter role \"Guest\" replication;"),
        "{notes}"
    );
    assert!(
        notes.contains("create publication supabase_realtime;"),
        "{notes}"
    );
    assert!(
        !is_needed(&role).await,
        "what it may not do is not asked for at every connection"
    );
    let connection = open(&role).await;
    assert!(
        partitions::ensure_partitions(&connection.client, NOW)
            .await
            .is_empty()
    );
}

async fn role_that_owns_the_database_needs_no_superuser(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql("drop schema realtime");
    let role = as_role(&database, "tenant_owner", "replication");
    database.sql(&format!(
        "grant create on database {} to tenant_owner",
        database.name
    ));
    let outcome = migrated(&role).await;
    assert!(outcome.applied.contains(&"messages"));
    let note = outcome.notes.join("\n");
    assert!(
        note.contains("grant anon, authenticated, service_role to tenant_owner;"),
        "{note}"
    );
    database.sql("grant anon, authenticated, service_role to tenant_owner");
    assert_eq!(migrated(&role).await, Migrated::default());
    let owner =
        "select pg_get_userbyid(relowner) from pg_class where oid = 'realtime.messages'::regclass";
    assert_eq!(
        database.sql(owner),
        "tenant_owner",
        "it would have locked itself out"
    );
}

async fn send_is_in_utc_wherever_the_session_is(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(&format!(
        "alter database {} set timezone to 'Pacific/Kiritimati'",
        database.name
    ));
    let outcome = migrated(&database).await;
    assert!(
        outcome.notes.join("\n").contains("set timezone to 'UTC'"),
        "{outcome:?}"
    );
    let sent = "select realtime.send('{}', 'e', 'r'); select realtime.send_binary('x', 'e', 'r');
        select current_setting('timezone'), count(*) from realtime.messages
        where inserted_at between timezone('utc', now()) - interval '1 min' and timezone('utc', now())";
    assert_eq!(database.sql(sent), "\n\nPacific/Kiritimati|2");
}

async fn partitions_are_made_beside_a_reader(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    migrated(&database).await;
    let reader = database.client(&database.user).await;
    reader
        .batch_execute(
            "begin; select realtime.send('{}', 'e', 'r'); select * from realtime.messages",
        )
        .await
        .expect("it may read");
    let connection = open(&database).await;
    let later = realtime::control::clock::unix_seconds() + 10 * SECONDS_PER_DAY;
    let failures = partitions::ensure_partitions(&connection.client, later).await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(
        database.sql(
            "select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass"
        ),
        "10"
    );
    reader
        .batch_execute("commit")
        .await
        .expect("it was not disturbed");
}

async fn partitions_are_made_once_and_dropped_late(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    migrated(&database).await;
    database.sql("do $$ declare t text; begin
          for t in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass loop
            execute 'drop table ' || t; end loop; end $$;
        create table realtime.messages_old partition of realtime.messages for values from ('2001-01-01') to ('2002-01-01');
        create table realtime.messages_2001_01_01 (id int)");
    let connection = open(&database).await;
    let client = &connection.client;
    let names = || {
        database.sql("select string_agg(relname, ' ' order by relname) from pg_inherits join pg_class c on c.oid = inhrelid
            where inhparent = 'realtime.messages'::regclass")
    };
    assert!(partitions::ensure_partitions(client, NOW).await.is_empty());
    let made = "messages_2026_11_23 messages_2026_11_24 messages_2026_11_25 messages_2026_11_26 messages_2026_11_27";
    assert_eq!(names(), format!("{made} messages_old"));
    assert!(partitions::ensure_partitions(client, NOW).await.is_empty());
    assert_eq!(database.sql("select pg_get_expr(relpartbound, oid) from pg_class where relname = 'messages_2026_11_24'"),
        "FOR VALUES FROM ('2026-11-24 00:00:00') TO ('2026-11-25 00:00:00')");
    assert_eq!(database.sql("select count(*) from pg_index where indrelid = 'realtime.messages_2026_11_24'::regclass"), "2");

    let gone = partitions::drop_old_partitions(client, NOW + 2 * SECONDS_PER_DAY).await;
    assert_eq!(gone.expect("nobody holds them"), [""; 0]);
    let gone = partitions::drop_old_partitions(client, NOW + 3 * SECONDS_PER_DAY).await;
    assert_eq!(gone.expect("nobody holds them"), ["messages_2026_11_23"]);
    // Neither a partition with another name nor a table that is none.
    assert_eq!(database.sql("select to_regclass('realtime.messages_old'), to_regclass('realtime.messages_2001_01_01')"),
        "realtime.messages_old|realtime.messages_2001_01_01");
}

async fn partition_that_cannot_be_made_costs_no_other(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    migrated(&database).await;
    let later = NOW + 400 * SECONDS_PER_DAY;
    database.sql("create table realtime.theirs partition of realtime.messages for values from ('2027-12-29') to ('2027-12-30')");
    let connection = open(&database).await;
    let failures = partitions::ensure_partitions(&connection.client, later).await;
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(
        texts[0].contains("messages_2027_12_29") && texts[0].contains("overlap"),
        "{texts:?}"
    );
    assert_eq!(
        database.sql(
            "select count(*) from pg_class where relname ~ '^messages_202[78]_[0-9]*_[0-9]*$'"
        ),
        "4"
    );
}
