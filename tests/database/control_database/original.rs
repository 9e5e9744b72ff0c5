//! Databases of the original, and ours as it would be found by the original.

use std::sync::Arc;

use realtime::control::store::TenantRecord;
use serde_json::{Value, json};

use super::contract::{full, keeps_the_contract};
use super::{KEY_GCM, Working, config, new, opened, until, with_secret};
use crate::postgres::{Cluster, Database, Kind};

tests![
    the_store_keeps_the_contract,
    the_store_keeps_the_contract_with_the_current_cipher,
    a_fresh_database_is_as_the_original_leaves_it,
    two_processes_may_make_it_at_once,
    a_database_of_an_old_release_is_read_and_brought_up_to_date,
    a_database_of_the_newest_release_is_left_as_it_is,
    what_we_write_the_original_can_read,
    what_we_do_not_know_is_left_alone,
    without_the_right_to_change_the_schema_defaults_are_used,
    a_database_that_is_older_still_is_read,
    the_query_of_the_operator_says_where_the_tables_are,
    a_tenant_that_cannot_be_decrypted_costs_no_other,
    old_secrets_are_encrypted_anew,
    old_secrets_are_encrypted_anew_once_the_flag_is_on,
    a_concurrent_change_is_not_taken_back,
    what_cannot_be_encrypted_anew_is_logged,
];

pub const SEED: &str = include_str!("original_seed.sql");
pub const LATER: &str = include_str!("original_later.sql");

/// Everything in schema `_realtime` but rows: columns, constraints, indexes.
const SCHEMA: &str = "
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
  where c.relnamespace = '_realtime'::regnamespace and c.relkind = 'r' order by 1, 2;
select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
  where connamespace = '_realtime'::regnamespace order by 1, 2;
select indexdef from pg_indexes where schemaname = '_realtime' order by 1";

const VERSIONS: &str =
    "select count(*), min(version), max(version) from _realtime.schema_migrations";

async fn the_store_keeps_the_contract(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let working = Working::start(&database, &[]).await;
    keeps_the_contract(&*working.store, new).await;
    assert!(working.store.is_shared());
}

async fn the_store_keeps_the_contract_with_the_current_cipher(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    let gcm = [
        ("DB_ENC_KEY_GCM", KEY_GCM),
        ("DB_ENC_WRITE_GCM", "true"),
        ("DB_ENC_KEY", ""),
    ];
    let working = Working::start(&database, &gcm).await;
    keeps_the_contract(&*working.store, new).await;
    assert_eq!(
        database.sql("select count(*) from _realtime.tenants where jwt_secret like 'g1:%'"),
        "2"
    );
}

async fn a_fresh_database_is_as_the_original_leaves_it(cluster: Arc<Cluster>) {
    let (ours, originals) = (cluster.database(Kind::Empty), cluster.database(Kind::Empty));
    originals.sql(&format!("{SEED}{LATER}"));
    for _ in 0..2 {
        let (_, said) = opened(&config(&ours, &[])).await.expect("it opens");
        assert_eq!(said, [""; 0]);
        assert_eq!(ours.sql(SCHEMA), originals.sql(SCHEMA));
        assert_eq!(ours.sql(VERSIONS), "33|20210706140551|20260805000000");
        assert_eq!(ours.sql(VERSIONS), originals.sql(VERSIONS));
    }
}

async fn two_processes_may_make_it_at_once(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let config = config(&database, &[]);
    let all = [(); 8].map(|()| opened(&config));
    let [a, b, c, d, e, f, g, h] = all;
    let outcome = tokio::join!(a, b, c, d, e, f, g, h);
    for one in [
        outcome.0, outcome.1, outcome.2, outcome.3, outcome.4, outcome.5, outcome.6, outcome.7,
    ] {
        one.expect("one makes it, and the others find it");
    }
    assert_eq!(database.sql(VERSIONS), "33|20210706140551|20260805000000");
}

/// What stands in the rows of the seed.
fn check_seeded(record: &TenantRecord) {
    assert_eq!(record.id, "d4448862-666f-4af2-9966-78298e8af6bf");
    assert_eq!(
        record.jwt_secret.as_deref(),
        Some("super-secret-jwt-token-with-at-least-32-characters-long")
    );
    assert_eq!(
        (
            record.max_concurrent_users,
            record.max_joins_per_second,
            record.migrations_ran
        ),
        (7, 500, 64)
    );
    assert_eq!(
        (record.inserted_at, record.updated_at),
        (1_759_320_000, 1_759_410_855)
    );
    assert!(!record.presence_enabled && record.client_presence_window_ms.is_none());
    let settings = Value::Object(record.database().expect("it has one").clone());
    let expected = json!({
        "region": "us-east-1", "db_host": "127.0.0.1", "db_port": "5432", "db_name": "postgres", "db_user": "supabase_admin",
        "db_password": "postgres", "poll_interval_ms": 100, "poll_max_changes": 100, "poll_max_record_bytes": 1_048_576,
        "publication": "supabase_realtime", "slot_name": "supabase_realtime_replication_slot", "ssl_enforced": false,
    });
    assert_eq!(settings, expected);
    let shown = Value::Object(record.extensions[0].shown());
    assert_eq!(shown["db_host"], "7DdgtSK7rYs2fSvlK2dwYA==");
    assert!(shown.get("db_password").is_none());
}

async fn a_database_of_an_old_release_is_read_and_brought_up_to_date(cluster: Arc<Cluster>) {
    let (database, newest) = (cluster.database(Kind::Empty), cluster.database(Kind::Empty));
    database.sql(SEED);
    newest.sql(&format!("{SEED}{LATER}"));
    let row = "select to_jsonb(t) - array['max_client_presence_events_per_window', 'client_presence_window_ms', 'presence_enabled', \
               'feature_flags', 'gcm_migrated_at'] from _realtime.tenants t; select * from _realtime.extensions";
    let before = database.sql(row);
    let working = Working::start(&database, &[]).await;
    assert_eq!(working.records.len(), 1);
    check_seeded(&working.records[0]);
    assert_eq!(database.sql(SCHEMA), newest.sql(SCHEMA));
    assert_eq!(database.sql(row), before);
    // One of the original's migrations we do not know: it is left to the original.
    assert_eq!(database.sql(VERSIONS), "32|20210706140551|20260805000000");
    assert_eq!(
        database
            .sql("select count(*) from _realtime.schema_migrations where version = 20251218000543"),
        "0"
    );
    check_seeded(&working.get("realtime-dev").await);
}

async fn a_database_of_the_newest_release_is_left_as_it_is(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!("{SEED}{LATER}"));
    let all = format!(
        "{SCHEMA}; {VERSIONS}; select * from _realtime.tenants; select * from _realtime.extensions"
    );
    let before = database.sql(&all);
    let working = Working::start(&database, &[]).await;
    check_seeded(&working.get("realtime-dev").await);
    assert_eq!(database.sql(&all), before);
}

async fn what_we_write_the_original_can_read(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!("{SEED}{LATER}"));
    let working = Working::start(&database, &[]).await;
    // A change of one field: nothing else of the rows is another than before.
    let all = "select to_jsonb(t) - 'max_concurrent_users' from _realtime.tenants t; select * from _realtime.extensions";
    let before = database.sql(all);
    let mut record = working.get("realtime-dev").await;
    record.max_concurrent_users = 8;
    let put = working.store.put(record).await;
    let mut record = put.expect("it is the same tenant");
    assert_eq!(database.sql(all), before);
    assert_eq!(
        database.sql("select max_concurrent_users from _realtime.tenants"),
        "8"
    );
    // New secrets, in the words of the specification's table.
    record.jwt_secret = Some("1234567890123456".to_owned());
    for (name, value) in [
        ("db_host", "a"),
        ("db_port", "5432"),
        ("db_user", "supabase_admin"),
        ("db_password", ""),
    ] {
        record.extensions[0]
            .settings
            .insert(name.to_owned(), json!(value));
    }
    let put = working
        .store
        .put(record)
        .await
        .expect("it is the same tenant");
    let secret = database.sql("select jwt_secret from _realtime.tenants");
    assert_eq!(secret, "Bj2rut6wPxIKU5j33MuSYE82uuGZrojyd3by3+a2jj8=");
    let settings = database.sql("select settings from _realtime.extensions");
    let settings: Value = serde_json::from_str(&settings).expect("it is JSON");
    for (name, text) in [
        ("db_host", "ZWewxC7Jqe8eWJBCZKlBkg=="),
        ("db_port", "+enMDFi1J/3IrrquHHwUmA=="),
        ("db_name", "sWBpZNdjggEPTQVlI52Zfw=="),
        ("db_user", "uxbEq/zz8DXVD53TOI1zmw=="),
        ("db_password", "Tza64ZmuiPJ3dvLf5raOPw=="),
    ] {
        assert_eq!(settings[name], text, "{name}");
        assert_eq!(put.extensions[0].at_rest()[name], text, "{name}");
    }
    // A new tenant, with everything: the types of the columns hold it.
    working
        .store
        .put(full("new", new("new")))
        .await
        .expect("it is new");
    let row = "select name, max_client_presence_events_per_window, feature_flags ->> 'on', inserted_at, broadcast_adapter \
               from _realtime.tenants where external_id = 'new'";
    assert_eq!(
        database.sql(row),
        "Näme \"quoted\" \\ 😀|8|true|2023-11-14 22:13:21|gen_rpc"
    );
}

async fn what_we_do_not_know_is_left_alone(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!(
        "{SEED}{LATER}
         alter table tenants add column future text; alter table tenants drop column presence_enabled;
         alter table extensions add column future text;
         update tenants set future = 'kept', notify_private_alpha = true; update extensions set future = 'kept';
         insert into schema_migrations values (29990101000000, now());"
    ));
    let before = database.sql(SCHEMA);
    let working = Working::start(&database, &[]).await;
    assert_eq!(database.sql(SCHEMA), before);
    let mut record = working.get("realtime-dev").await;
    assert!(!record.presence_enabled);
    record.suspend = true;
    record.extensions[0]
        .settings
        .insert("region".to_owned(), json!("r"));
    working
        .store
        .put(record)
        .await
        .expect("it is the same tenant");
    let kept = "select t.future, notify_private_alpha, suspend, e.future, e.id, settings ->> 'region' \
                from _realtime.tenants t, _realtime.extensions e";
    assert_eq!(
        database.sql(kept),
        "kept|t|t|kept|11111111-2222-3333-4444-555555555555|r"
    );
}

/// A login role that may use the rows and nothing else.
fn humble(database: &Database) -> [(&'static str, String); 1] {
    let role = format!("humble_{}", database.name);
    database.sql(&format!(
        "create role {role} login password 'postgres'; grant usage on schema _realtime to {role};
         grant select, insert, update, delete on all tables in schema _realtime to {role}"
    ));
    [("DB_USER", role)]
}

async fn without_the_right_to_change_the_schema_defaults_are_used(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(SEED);
    let [(_, role)] = humble(&database);
    let before = database.sql(SCHEMA);
    let (opened, said) = opened(&config(&database, &[("DB_USER", &role)]))
        .await
        .expect("it opens");
    assert_eq!(said.len(), 6, "{said:?}");
    assert!(said.iter().any(|text| text.contains("tenants.presence_enabled") && text.contains("must be owner")), "{said:?}");
    assert_eq!(database.sql(SCHEMA), before);
    let working = Working::of(opened);
    let mut record = working.get("realtime-dev").await;
    check_seeded(&record);
    record.suspend = true;
    record.presence_enabled = true;
    working
        .store
        .put(record)
        .await
        .expect("it is the same tenant");
    let record = working.get("realtime-dev").await;
    assert!(
        record.suspend && !record.presence_enabled,
        "what has no column is not stored"
    );
    assert!(
        !working
            .store
            .flag("any", &record)
            .await
            .expect("there is no table of flags")
    );
    working
        .store
        .put(with_secret("other"))
        .await
        .expect("it is new");
    // Where there is nothing, and nothing may be made, the sentence says what helps.
    let empty = cluster.database(Kind::Empty);
    let error = super::opened(&config(&empty, &[("DB_USER", &role)]))
        .await
        .err();
    let error = error.expect("it may not create").to_string();
    assert!(
        error.contains("create schema \"_realtime\"") && error.contains("permission denied"),
        "{error}"
    );
}

async fn a_database_that_is_older_still_is_read(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!(
        "{SEED}
         alter table tenants drop column broadcast_adapter, drop column max_presence_events_per_second, drop column max_payload_size_in_kb;
         delete from schema_migrations where version > 20250424203323;"
    ));
    let before = database.sql(SCHEMA);
    let working = Working::start(&database, &[]).await;
    let record = working.get("realtime-dev").await;
    check_seeded(&record);
    assert_eq!(
        (
            record.max_presence_events_per_second,
            record.max_payload_size_in_kb
        ),
        (1000, 3000)
    );
    working
        .store
        .put(record)
        .await
        .expect("it is the same tenant");
    // Its own release adds what is missing, in its own order.
    assert_eq!(database.sql(SCHEMA), before);
}

async fn the_query_of_the_operator_says_where_the_tables_are(cluster: Arc<Cluster>) {
    let place = "select string_agg(schemaname, ' ' order by schemaname) from pg_tables where tablename = 'tenants'";
    // A schema that is not there yet is made.
    let led = cluster.database(Kind::Empty);
    let query = [("DB_AFTER_CONNECT_QUERY", "SET search_path TO \"Own\"")];
    for _ in 0..2 {
        let working = Working::start(&led, &query).await;
        // The second time there is one already.
        let _ = working.store.put(with_secret("a")).await;
        assert_eq!(led.sql(place), "Own");
    }
    assert_eq!(led.sql("select count(*) from \"Own\".tenants"), "1");
    // Without a query, tables that the search path leads to are used, and `_realtime` where it leads to none.
    let public = cluster.database(Kind::Empty);
    public.sql(
        &SEED
            .replace("create schema if not exists _realtime;", "")
            .replace("= _realtime", "= public"),
    );
    let working = Working::start(&public, &[]).await;
    check_seeded(&working.get("realtime-dev").await);
    assert_eq!(public.sql(place), "public");
    // Somebody else's tables of these names are nobody's business.
    let foreign = cluster.database(Kind::Empty);
    foreign.sql("create table tenants (id int); create table extensions (id int)");
    Working::start(&foreign, &[]).await;
    assert_eq!(foreign.sql(place), "_realtime public");
}

async fn a_tenant_that_cannot_be_decrypted_costs_no_other(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!(
        "{SEED}
         insert into tenants (id, external_id, jwt_secret, inserted_at, updated_at)
         values (gen_random_uuid(), 'broken', 'not encrypted', now(), now());"
    ));
    let (opened, _) = opened(&config(&database, &[])).await.expect("it opens");
    assert_eq!(opened.records.len(), 1);
    let broken: Vec<String> = opened.broken.iter().map(ToString::to_string).collect();
    assert!(
        broken.len() == 1
            && broken[0].contains("jwt_secret of tenant broken")
            && broken[0].contains("DB_ENC_KEY"),
        "{broken:?}"
    );
    let mut working = Working::of(opened);
    assert_eq!(
        working.store.list().await.expect("one can be read").len(),
        1
    );
    assert_eq!(working.logged("jwt_secret of tenant broken"), 1);
    assert!(working.store.get("broken").await.is_err());
    // With another key all are like that: the start says which variable is wrong.
    for (key, part) in [
        (
            "1234567890123456",
            "with DB_ENC_KEY: it was encrypted with another key",
        ),
        ("", "DB_ENC_KEY is not set"),
    ] {
        let gcm = [
            ("DB_ENC_KEY", key),
            ("DB_ENC_KEY_GCM", KEY_GCM),
            ("DB_ENC_WRITE_GCM", "true"),
        ];
        let error = super::opened(&config(&database, &gcm)).await.err();
        let error = error.expect("no tenant can be used").to_string();
        assert!(error.contains(part), "{error}");
    }
    // Nothing to encrypt with is found before anything is connected to.
    let error = super::opened(&config(&database, &[("DB_ENC_KEY", "")]))
        .await
        .err();
    let error = error.expect("there is no key").to_string();
    assert!(error.contains("DB_ENC_KEY is not set"), "{error}");
}

const GCM: [(&str, &str); 2] = [("DB_ENC_KEY_GCM", KEY_GCM), ("DB_ENC_WRITE_GCM", "true")];

const IS_OLD: &str = "select gcm_migrated_at is null, jwt_secret like 'g1:%', (select count(*) from _realtime.extensions e, jsonb_each_text(e.settings) \
    where e.tenant_external_id = t.external_id and value like 'g1:%'), updated_at from _realtime.tenants t where external_id = 'realtime-dev'";

async fn old_secrets_are_encrypted_anew(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!("{SEED}{LATER}"));
    // Not without the flag.
    database.sql("update _realtime.feature_flags set enabled = false");
    let off = Working::start(&database, &GCM).await;
    // As many reads as an encryption takes round trips, several times over: it would have happened by then.
    for _ in 0..50 {
        check_seeded(&off.get("realtime-dev").await);
    }
    assert!(
        !off.store
            .flag("gcm_encryption_backfill", &off.records[0])
            .await
            .expect("it answers")
    );
    assert_eq!(database.sql(IS_OLD), "t|f|0|2025-10-02 13:14:15");
    drop(off);
    // With it, and without anybody having asked for the tenant.
    database.sql("update _realtime.feature_flags set enabled = true");
    let mut on = Working::start(&database, &GCM).await;
    until("it is encrypted anew", || {
        database.sql(IS_OLD) == "f|t|5|2025-10-02 13:14:15"
    })
    .await;
    let record = on.get("realtime-dev").await;
    assert_eq!(record.jwt_secret, on.records[0].jwt_secret);
    assert_eq!(record.database(), on.records[0].database());
    assert_eq!(on.logged(""), 0);
    // Who writes the legacy format reads it as well.
    let legacy = Working::start(&database, &[("DB_ENC_KEY_GCM", KEY_GCM)]).await;
    assert_eq!(legacy.get("realtime-dev").await, record);
    // A tenant that comes later is found when it is read.
    legacy
        .store
        .put(with_secret("later"))
        .await
        .expect("it is new");
    on.get("later").await;
    let is_new = "select gcm_migrated_at is not null and jwt_secret like 'g1:%' from _realtime.tenants where external_id = 'later'";
    until("it is encrypted anew", || database.sql(is_new) == "t").await;
}

async fn old_secrets_are_encrypted_anew_once_the_flag_is_on(cluster: Arc<Cluster>) {
    for switch_on in [
        "update _realtime.feature_flags set enabled = true",
        "update _realtime.tenants set feature_flags = '{\"gcm_encryption_backfill\": true}'",
    ] {
        let database = cluster.database(Kind::Empty);
        database.sql(&format!("{SEED}{LATER}"));
        database.sql("update _realtime.feature_flags set enabled = false");
        let [key, write] = GCM;
        let often = ("TENANT_CACHE_EXPIRATION_IN_MS", "1000");
        let mut working = Working::start(&database, &[key, write, often]).await;
        // The one at the start was too early, and nobody reads the tenant later.
        check_seeded(&working.get("realtime-dev").await);
        assert_eq!(database.sql(IS_OLD), "t|f|0|2025-10-02 13:14:15");
        database.sql(switch_on);
        until("it is encrypted anew", || {
            database.sql(IS_OLD) == "f|t|5|2025-10-02 13:14:15"
        })
        .await;
        assert_eq!(working.logged(""), 0);
    }
}

async fn a_concurrent_change_is_not_taken_back(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!("{SEED}{LATER}"));
    let other = database.client(&database.user).await;
    let change = "begin; update _realtime.tenants set jwt_secret = 'ZWewxC7Jqe8eWJBCZKlBkg=='";
    other
        .batch_execute(change)
        .await
        .expect("it is a superuser");
    let working = Working::start(&database, &GCM).await;
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'update%jwt_secret%' \
                 and datname = current_database()";
    until("it waits for the change", || database.sql(waits) == "1").await;
    other
        .batch_execute("commit")
        .await
        .expect("nobody is in its way");
    // The settings are encrypted anew; the secret is the new one, which the next look may have encrypted anew as well.
    until("the settings are done", || {
        database.sql(IS_OLD).contains("|5|")
    })
    .await;
    // The next read brings it to its end.
    assert_eq!(
        working.get("realtime-dev").await.jwt_secret.as_deref(),
        Some("a")
    );
    until("the secret is done", || {
        database.sql(IS_OLD).starts_with("f|t|5")
    })
    .await;
    assert_eq!(
        working.get("realtime-dev").await.jwt_secret.as_deref(),
        Some("a")
    );
}

async fn what_cannot_be_encrypted_anew_is_logged(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!(
        "{SEED}{LATER}
         create function refuse() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
         create trigger refuse before update on extensions execute function refuse();"
    ));
    let mut working = Working::start(&database, &GCM).await;
    while working.logged(REFUSED) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // It is served all the same, and not tried again and again.
    check_after_failure(&mut working).await;
}

/// What is said of it.
const REFUSED: &str = "EncryptionReconcileFailed: the control database refused: ERROR not today";

async fn check_after_failure(working: &mut Working) {
    for _ in 0..3 {
        let record = working.get("realtime-dev").await;
        assert!(record.database().is_some());
    }
    let lines = working.lines_with("EncryptionReconcileFailed");
    // By the look at all tenants neither, which comes when it likes.
    assert_eq!(working.logged(REFUSED), 1, "{lines:#?}");
}
