//! What `realtime.send` and its relatives do, as it was recorded from the original: `vectors/broadcast-from-database/send.json`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use realtime::control::database::{connect, migrate};
use serde_json::{Value, json};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::postgres::{Cluster, Database, Kind};

tests![
    recorded_calls_have_their_recorded_effects,
    changes_of_no_row_or_no_kind_are_refused
];

const VECTORS: &str = include_str!("../conformance/vectors/broadcast-from-database/send.json");

async fn recorded_calls_have_their_recorded_effects(cluster: Arc<Cluster>) {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).expect("it is JSON");
    assert_eq!(vectors.len(), 16);
    let mut differences = Vec::new();
    for vector in &vectors {
        let (expected, seen) = play(&cluster, vector).await;
        if expected != seen {
            differences.push(format!(
                "{}\nexpected {expected:#}\nseen {seen:#}",
                vector["name"]
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

async fn prepared(cluster: &Arc<Cluster>) -> Database {
    let database = cluster.database(Kind::Supabase);
    let mut connection = connect(&database.settings(), "realtime_migrations")
        .await
        .expect("PostgreSQL runs");
    migrate::migrate(&mut connection.client)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    database
}

/// What the vector says happens, and what does.
async fn play(cluster: &Arc<Cluster>, vector: &Value) -> (Value, Value) {
    let database = prepared(cluster).await;
    if vector["partitions_for_today"] == false {
        database.sql(
            "do $$ declare t text; begin
               for t in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass loop
                 execute 'drop table ' || t; end loop; end $$",
        );
    }
    for statement in texts(&vector["setup"]) {
        database.sql(&statement);
    }
    let notices = Rc::new(RefCell::new(Vec::new()));
    let client = listening(&database, &notices).await;
    if let Some(role) = vector["session_role"].as_str() {
        let set = format!("set role {role}");
        client.batch_execute(&set).await.expect("it is a role");
    }
    let mut calls = Vec::new();
    for call in vector["calls"].as_array().expect("it is a list") {
        calls.push(perform(&client, call, &notices).await);
    }
    let mut expected_calls = vector["calls"].clone();
    for call in expected_calls.as_array_mut().expect("it is a list") {
        call.as_object_mut().expect("it is an object").remove("sql");
    }
    let expected = json!({"calls": expected_calls, "rows": vector["rows"]});
    (expected, json!({"calls": calls, "rows": rows(&database)}))
}

/// A connection whose warnings end up in `notices`.
async fn listening(database: &Database, notices: &Rc<RefCell<Vec<Value>>>) -> Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&database.host)
        .port(database.port)
        .dbname(&database.name);
    config.user(&database.user).password(&database.password);
    let (client, mut driver) = config.connect(NoTls).await.expect("PostgreSQL runs");
    let notices = Rc::clone(notices);
    tokio::task::spawn_local(async move {
        while let Some(Ok(message)) =
            std::future::poll_fn(|context| driver.poll_message(context)).await
        {
            if let AsyncMessage::Notice(notice) = message {
                notices
                    .borrow_mut()
                    .push(json!({"severity": notice.severity(), "message": notice.message()}));
            }
        }
    });
    client
}

/// One call; a list of statements is a transaction.
async fn perform(client: &Client, call: &Value, notices: &Rc<RefCell<Vec<Value>>>) -> Value {
    let mut statements = texts(&call["sql"]);
    if call["sql"].is_array() {
        statements.insert(0, "begin".to_owned());
        statements.push("commit".to_owned());
    }
    let mut seen = json!({});
    for statement in statements {
        match client.simple_query(&statement).await {
            Ok(messages) => {
                let row = messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                if let Some(row) = row.filter(|row| row.columns()[0].name() == "topic_after") {
                    // Without a value it is an empty string or null, depending on who asked before.
                    seen["topic_after"] = json!(row.get(0));
                }
            }
            Err(error) => {
                let error = error.as_db_error().expect("PostgreSQL said it");
                seen["error"] =
                    json!({"sqlstate": error.code().code(), "message": error.message()});
            }
        }
    }
    seen["notices"] = Value::Array(notices.borrow_mut().drain(..).collect());
    seen
}

/// All rows in the order in which they were inserted, the way the vectors write them.
fn rows(database: &Database) -> Value {
    let text = database.sql(
        "select json_build_object('topic', topic, 'event', event, 'private', private, 'extension', extension,
           'payload', case when payload ->> 'id' = id::text then payload || '{\"id\": \"<row id>\"}' else payload end,
           'binary_payload_hex', encode(binary_payload, 'hex'),
           'inserted_at_is_now_utc', inserted_at between timezone('utc', now()) - interval '1 min' and timezone('utc', now()))
         from realtime.messages order by ctid",
    );
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("PostgreSQL prints JSON"))
        .collect()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().cloned();
    let list = list.unwrap_or_else(|| vec![value.clone()]);
    list.iter()
        .map(|one| one.as_str().expect("it is text").to_owned())
        .collect()
}

async fn changes_of_no_row_or_no_kind_are_refused(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let client = database.client(&database.user).await;
    let table = "create table t (id int); insert into t values (1)";
    client.batch_execute(table).await.expect("it is SQL");
    for (operation, level, expected) in [
        (
            "'INSERT'",
            "STATEMENT",
            "function can only be triggered for each row, not for each statement",
        ),
        ("'insert'", "ROW", "Unexpected operation type: insert"),
        ("null", "ROW", "Unexpected operation type: <NULL>"),
    ] {
        let call = format!(
            "select realtime.broadcast_changes('room', 'e', {operation}, 't', 'public', t, null::t, '{level}') from t"
        );
        let error = client.batch_execute(&call).await.expect_err("it is wrong");
        assert_eq!(
            error.as_db_error().expect("PostgreSQL said it").message(),
            format!("Failed to process the row: {expected}")
        );
    }
}
