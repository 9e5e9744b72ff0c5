//! The SQL of row changes that this server does without, against what was recorded from the original: `vectors/postgres-changes`. It is in
//! the schema for upstream, should it take the database over; so it has to do what upstream's does, quirks included. Needs wal2json, and
//! with it a cluster in which nobody else works: see `play_all`.

use std::fmt::Write as _;
use std::sync::Arc;

use realtime::control::database::{connect, migrate};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::postgres::{ADMIN, Cluster, Kind};

tests![
    recorded_filters_let_pass_what_they_let_pass,
    recorded_policies_and_grants_show_what_they_showed,
    recorded_values_look_as_they_looked,
    recorded_events_and_publications_are_followed,
];

macro_rules! vectors {
    ($($name:literal),*) => { &[$(($name, include_str!(concat!("../conformance/vectors/postgres-changes/", $name, ".json")))),*] };
}

async fn recorded_filters_let_pass_what_they_let_pass(_: Arc<Cluster>) {
    play_all(vectors!("actions", "filters", "select"), 24).await;
}

async fn recorded_policies_and_grants_show_what_they_showed(_: Arc<Cluster>) {
    play_all(vectors!("grants", "pk", "rls", "roles"), 32).await;
}

async fn recorded_values_look_as_they_looked(_: Arc<Cluster>) {
    play_all(vectors!("size", "toast", "types"), 23).await;
}

async fn recorded_events_and_publications_are_followed(_: Arc<Cluster>) {
    play_all(vectors!("events", "publication"), 27).await;
}

/// Plays all vectors of these files, of which there are `count`, one after the other, in a cluster of their own.
async fn play_all(files: &[(&str, &str)], count: usize) {
    // wal2json looks up a table's primary key, then prints the row, then the key. Should the session's cache of tables be emptied
    // meanwhile, it takes the table for one without a key. PostgreSQL empties it whole when a session is some thousand messages
    // behind, and schemas that other tests make are such messages, in whatever database of the cluster: nobody may make any here
    // while a vector polls.
    let cluster = &Arc::new(Cluster::start_with(ADMIN, &[]));
    let (mut played, mut differences) = (0, String::new());
    for (file, text) in files {
        let vectors: Vec<Value> =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        for vector in &vectors {
            played += 1;
            for (what, expected, seen) in play(cluster, vector).await {
                let name = &vector["name"];
                writeln!(
                    differences,
                    "{name}: {what}\n  expected {expected}\n  seen     {seen}"
                )
                .expect("a String takes everything");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert_eq!(played, count);
}

/// What differs, with what was expected and what was seen.
async fn play(cluster: &Arc<Cluster>, vector: &Value) -> Vec<(String, Value, Value)> {
    let database = cluster.database(Kind::Empty);
    let settings = database.settings();
    let mut connection = connect(&settings, "realtime_migrations")
        .await
        .expect("PostgreSQL runs");
    let migrated = migrate::migrate(&mut connection.client).await;
    migrated.unwrap_or_else(|error| panic!("{error}"));
    // `for all tables` has what upstream's schema had when this was recorded: no partitions.
    database.sql(
        "do $$ declare name text; begin
           for name in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass loop
             execute 'drop table ' || name;
           end loop;
         end $$",
    );
    let user = database.client(&database.user).await;
    // What is not flushed is not decoded yet.
    run(&user, &json!("set synchronous_commit = on")).await;
    run(&user, &vector["setup"]).await;
    if let Some(publication) = vector["publication"].as_str() {
        run(&user, &json!(publication)).await;
    }
    let mut differences = Vec::new();
    let mut subscribers: Vec<(String, String)> = Vec::new();
    for subscription in vector["subscriptions"].as_array().expect("it is a list") {
        if !subscription["error"]["parse"].is_null() {
            continue;
        }
        let id = Uuid::new_v4();
        let expected = match &subscription["error"] {
            Value::Null => subscription["rows_inserted"].clone(),
            error => error.clone(),
        };
        let seen = subscribe(&user, id, subscription).await;
        let may_refuse = subscription["may_refuse"] == true && seen.is_object();
        if seen != expected && !may_refuse {
            differences.push((
                format!("subscription {}", subscription["key"]),
                expected,
                seen,
            ));
        }
        let key = subscription["key"].as_str().expect("it has a key");
        subscribers.push((id.to_string(), key.to_owned()));
    }
    let slot = &database.name;
    let poller = &connection.client;
    // A slot of a session: it cannot outlive the test.
    let create = format!("select pg_create_logical_replication_slot('{slot}', 'wal2json', true)");
    poller.batch_execute(&create).await.expect(
        "wal2json is installed: Debian's package postgresql-15-wal2json, or that of your version",
    );
    for transaction in vector["transactions"].as_array().expect("it is a list") {
        user.batch_execute("begin").await.expect("it can begin");
        run(&user, transaction).await;
        user.batch_execute("commit").await.expect("it can commit");
    }
    run(&user, &vector["before_poll"]).await;
    let expected = match &vector["expect_error"] {
        Value::Null => json!({"rows": vector["expect"], "count": vector["slot_changes_count"]}),
        error => error.clone(),
    };
    let seen = poll(poller, slot, &vector["max_record_bytes"], &subscribers).await;
    let expected = decimals(without_client_data(expected));
    let seen = decimals(seen);
    if expected != seen {
        differences.push(("poll".to_owned(), expected, seen));
    }
    differences
}

async fn run(client: &Client, statements: &Value) {
    let list = match statements {
        Value::Null => return,
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    };
    for statement in list {
        let statement = statement.as_str().expect("it is text");
        client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// The rows that one entry of a join makes, as upstream inserts them, or the error.
async fn subscribe(client: &Client, id: Uuid, subscription: &Value) -> Value {
    let params = &subscription["params"];
    let action = params["event"].as_str().unwrap_or("*").to_uppercase();
    let action = if ["INSERT", "UPDATE", "DELETE"].contains(&action.as_str()) {
        action
    } else {
        "*".to_owned()
    };
    let (schema, table) = match (params["schema"].as_str(), params["table"].as_str()) {
        (Some(schema), table) => (schema, table.unwrap_or("*")),
        (None, table) => ("public", table.unwrap_or("*")),
    };
    let filters = filters(params["filter"].as_str().unwrap_or_default());
    let select = params["select"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let select = select.filter(|list| !list.is_empty());
    let outcome = client
        .execute(
            "insert into realtime.subscription (subscription_id, entity, filters, claims, action_filter, selected_columns)
             select $1::text::uuid, format('%I.%I', schemaname, tablename)::regclass,
               array(select row(f ->> 0, (f ->> 1)::realtime.equality_op, f ->> 2, (f ->> 3)::boolean)::realtime.user_defined_filter
                 from jsonb_array_elements($2::text::jsonb) as f),
               $3::text::jsonb, $4, $5
             from pg_publication_tables
             where pubname = 'supabase_realtime' and ($6 = '*' or schemaname like $6 escape '') and ($7 = '*' or tablename like $7 escape '')",
            &[&id.to_string(), &filters.to_string(), &subscription["claims"].to_string(), &action, &select, &schema, &table],
        )
        .await;
    match outcome {
        Ok(rows) => json!(rows),
        Err(error) => error_of(&error),
    }
}

fn error_of(error: &tokio_postgres::Error) -> Value {
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    json!({"sqlstate": error.code().code(), "message": error.message()})
}

/// The filters of a join as `[column, operator, value, negate]`; only what the vectors need of the grammar (spec: postgres-changes 2.4).
fn filters(text: &str) -> Value {
    let (mut list, mut current, mut depth, mut quoted, mut before) =
        (Vec::new(), String::new(), 0_u32, false, ' ');
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => {
                current.push(character);
                current.extend(characters.next());
                continue;
            }
            '"' if quoted => quoted = false,
            '"' if ['.', '(', ','].contains(&before) => quoted = true,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                list.push(std::mem::take(&mut current));
                before = character;
                continue;
            }
            _ => {}
        }
        current.push(character);
        before = character;
    }
    if !current.is_empty() {
        list.push(current);
    }
    list.iter().map(|one| filter(one.trim())).collect()
}

fn filter(text: &str) -> Value {
    let (column, rest) = text
        .split_once('=')
        .expect("the vectors' filters have an operator");
    let (negate, rest) = rest
        .strip_prefix("not.")
        .map_or((false, rest), |rest| (true, rest));
    let (operator, value) = rest
        .split_once('.')
        .expect("the vectors' filters have a value");
    let value = match operator {
        "in" => format!(
            "{{{}}}",
            value.trim_start_matches('(').trim_end_matches(')')
        ),
        _ => unquoted(value),
    };
    json!([column, operator, value, negate])
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    text
}

/// What one poll returns, in the words of the vectors.
async fn poll(
    client: &Client,
    slot: &str,
    max_record_bytes: &Value,
    subscribers: &[(String, String)],
) -> Value {
    let sql = format!(
        "select wal::text, is_rls_enabled, subscription_ids::text[], errors, slot_changes_count
         from realtime.list_changes('supabase_realtime', '{slot}', 100, {max_record_bytes})"
    );
    let rows = match client.query(&sql, &[]).await {
        Ok(rows) => rows,
        Err(error) => return error_of(&error),
    };
    let mut list = Vec::new();
    let mut count = json!(0);
    for row in rows {
        count = json!(row.get::<_, i64>(4));
        let Some(wal) = row.get::<_, Option<String>>(0) else {
            continue;
        };
        let mut wal: Value = serde_json::from_str(&wal).expect("PostgreSQL prints JSON");
        if let Some(time) = wal.get_mut("commit_timestamp") {
            *time = json!(if is_timestamp(time) {
                "<timestamp>"
            } else {
                "<no timestamp>"
            });
        }
        let ids: Vec<String> = row.get(2);
        let mut keys: Vec<&str> = ids
            .iter()
            .map(|id| {
                subscribers
                    .iter()
                    .find(|(known, _)| known == id)
                    .map_or("nobody", |(_, key)| key)
            })
            .collect();
        keys.sort_unstable();
        list.push(json!({"wal": wal, "is_rls_enabled": row.get::<_, bool>(1), "subscriptions": keys, "errors": row.get::<_, Vec<String>>(3)}));
    }
    json!({"rows": list, "count": count})
}

/// `2026-11-23T17:06:41.355Z`.
fn is_timestamp(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        text.len() == 24
            && text
                .bytes()
                .zip(*b"0000-00-00T00:00:00.000Z")
                .all(|(byte, form)| match form {
                    b'0' => byte.is_ascii_digit(),
                    form => byte == form,
                })
    })
}

/// The server makes the `data` of a row; SQL does not.
fn without_client_data(mut expected: Value) -> Value {
    if let Some(rows) = expected.get_mut("rows").and_then(Value::as_array_mut) {
        for row in rows {
            row.as_object_mut().expect("it is an object").remove("data");
        }
    }
    expected
}

/// Numbers as PostgreSQL writes them: without an exponent.
fn decimals(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let text = number.to_string();
            match text.split_once(['e', 'E']) {
                Some((digits, exponent)) => {
                    let exponent = exponent.parse().expect("it is an exponent");
                    serde_json::from_str(&shifted(digits, exponent)).expect("it is a number")
                }
                None => Value::Number(number),
            }
        }
        Value::Array(list) => list.into_iter().map(decimals).collect(),
        Value::Object(map) => {
            let map = map.into_iter().map(|(name, value)| (name, decimals(value)));
            map.collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// `digits` with the decimal point moved.
fn shifted(digits: &str, exponent: i32) -> String {
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", digits), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let point = i32::try_from(whole.len()).expect("numbers are short") + exponent;
    let mut digits = format!("{whole}{fraction}");
    if point <= 0 {
        let zeros = usize::try_from(-point).expect("it is not negative");
        return format!("{sign}0.{}{digits}", "0".repeat(zeros));
    }
    let point = usize::try_from(point).expect("it is positive");
    if point >= digits.len() {
        digits.push_str(&"0".repeat(point - digits.len()));
        return format!("{sign}{digits}");
    }
    digits.insert(point, '.');
    format!("{sign}{digits}")
}
