//! Values that are JSON themselves, and what was recorded of the original.

use std::sync::Arc;

use realtime::control::changes::types::Malformed;
use serde_json::Value;

use super::{Dice, World, json};
use crate::postgres::Cluster;

tests![
    documents_are_what_jsonb_makes_of_them,
    generated_documents_are_what_jsonb_makes_of_them,
    nesting_ends_behind_where_postgresql_ends,
    recorded_values_look_as_they_were_recorded,
];

async fn documents_are_what_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let literals = [
        r#"{"b": 1, "a": [1,2.50,null], "a": 2}"#,
        "1e3",
        "-0",
        "-0.00e-3",
        "1E-7",
        "0e100",
        "12.5e-2",
        "1.50e1",
        "1e131071",
        "1e-16383",
        r#"{"bb":1,"aa":2,"c":3,"":4,"é":5,"zz":6,"\u00e9":7}"#,
        r#""\u0001\u001f\u0020\u007f\ud83d\uDE00\b\f\n\r\t\"\\\/""#,
        r#"{"a\u0062":1,"ab":2}"#,
        " [ ] ",
        "\n{\t}\r",
        "[[[]],[{}]]",
        "null",
        "\"\"",
        "[true,false,null,\"x\"]",
        r#"{"a":{"a":{"c":1,"b":2},"a":{"e":1,"d":2}}}"#,
    ];
    world.literals("json", &literals).await;
    world.literals("jsonb", &literals).await;
    // What json keeps as it is spelled, and jsonb refuses.
    for text in [
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\ud800x\"",
        "{\"\\u0000\":1}",
        "1e131072",
        "1e-16384",
        "0e-16384",
        "[1e2000000000]",
    ] {
        let document = world
            .connection
            .client
            .query_one("select $1::text::json::text", &[&text])
            .await;
        assert_eq!(document.expect("json takes it").get::<_, String>(0), text);
        let refused = world
            .connection
            .client
            .query_one("select to_jsonb($1::text::json)::text", &[&text])
            .await;
        assert!(refused.is_err(), "{text}");
        let of = world.types.get(114).expect("json is built in");
        assert_eq!(json(&of, text), Err(Malformed), "{text}");
    }
}

async fn generated_documents_are_what_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let mut dice = Dice(0xd0c);
    let texts: Vec<String> = (0..4000).map(|_| document(&mut dice, 4)).collect();
    assert_eq!(
        world
            .compare("select x::json as v from unnest($1::text[]) x", &texts)
            .await,
        4000
    );
    assert_eq!(
        world
            .compare("select x::jsonb as v from unnest($1::text[]) x", &texts)
            .await,
        4000
    );
    // What is printed by jsonb and kept as json is settled.
    assert_eq!(
        world
            .compare(
                "select x::jsonb::text::json as v from unnest($1::text[]) x",
                &texts
            )
            .await,
        4000
    );
}

/// A document with odd spaces, equal keys, every escape and numbers of every form.
fn document(dice: &mut Dice, depth: usize) -> String {
    let string = |dice: &mut Dice| {
        let pieces = [
            "a",
            "b",
            "\\u0061",
            "\\u00e9",
            "é",
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u001F",
            "\\ud83d\\ude00",
            "😀",
            "\\u000a",
        ];
        let inner: String = (0..dice.below(4)).map(|_| dice.one(&pieces)).collect();
        format!("\"{inner}\"")
    };
    let space = |dice: &mut Dice| dice.one(&["", "", " ", "\n", "\t "]);
    let text = match dice.below(if depth == 0 { 6 } else { 10 }) {
        0 => dice.one(&["true", "false", "null"]).to_owned(),
        1..3 => string(dice),
        3..6 => {
            let sign = dice.one(&["", "-"]);
            let whole = dice.one(&["0", "1", "120", "99999999999999999999"]);
            let fraction = dice.one(&["", "", ".0", ".50", ".001", ".123456789"]);
            let exponent = dice.one(&["", "", "e0", "E5", "e+12", "e-3", "E-30", "e30"]);
            format!("{sign}{whole}{fraction}{exponent}")
        }
        6..8 => {
            let inner: Vec<String> = (0..dice.below(4))
                .map(|_| document(dice, depth - 1))
                .collect();
            format!("[{}]", inner.join(","))
        }
        _ => {
            let members = (0..dice.below(6)).map(|_| {
                let (key, value) = (string(dice), document(dice, depth - 1));
                format!("{key}{}:{value}", space(dice))
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
    };
    format!("{}{text}{}", space(dice), space(dice))
}

async fn nesting_ends_behind_where_postgresql_ends(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let of = world.types.get(114).expect("json is built in");
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deepest = realtime::limits::CHANGE_JSON_DEPTH_MAX;
    for depth in [100, 1000, deepest] {
        assert_eq!(json(&of, &deep(depth)), Ok(deep(depth)));
    }
    let refused = |depth: usize| {
        let (client, text) = (&world.connection.client, deep(depth));
        async move {
            client
                .query_one("select to_jsonb($1::text::json)::text", &[&text])
                .await
                .is_err()
        }
    };
    assert!(!refused(1000).await);
    assert!(
        refused(deepest).await,
        "PostgreSQL's stack ends before ours"
    );
}

/// What was recorded of the original, apart from `bit(n)`, which is not cut here.
async fn recorded_values_look_as_they_were_recorded(cluster: Arc<Cluster>) {
    let vectors: Vec<Value> = serde_json::from_str(include_str!(
        "../../conformance/vectors/postgres-changes/types.json"
    ))
    .expect("it is JSON");
    // One of them records that the original fails.
    let vectors: Vec<&Value> = vectors
        .iter()
        .filter(|vector| vector["expect"].is_array())
        .collect();
    assert_eq!(vectors.len(), 16);
    for vector in vectors {
        let world = World::new(&cluster).await;
        let name = vector["name"].as_str().expect("it has a name");
        let steps = |what: &str| vector[what].as_array().cloned().unwrap_or_default();
        let transactions = steps("transactions");
        let statements = transactions
            .iter()
            .flat_map(|statements| statements.as_array().into_iter().flatten());
        for statement in steps("setup").iter().chain(statements) {
            world
                .run(statement.as_str().expect("it is a statement"))
                .await;
        }
        let record = &vector["expect"][0]["data"]["record"];
        for (column, recorded) in record.as_object().expect("it is an object") {
            let query = format!(
                "select format('%s', {column}), {column}::text is null, pg_typeof({column})::oid, pg_typeof({column})::text from t"
            );
            let row = world
                .connection
                .client
                .query_one(&query, &[])
                .await
                .expect("it is there");
            let oid = row.get(2);
            world
                .types
                .load(&world.connection.client, &[oid])
                .await
                .expect("types can be read");
            let of = world.types.get(oid).expect("it was loaded");
            let text: String = row.get(0);
            let written = if row.get(1) {
                "null".to_owned()
            } else {
                json(&of, &text).expect("it is a value")
            };
            let recorded = if row.get::<_, String>(3) == "bit" {
                format!("\"{text}\"")
            } else {
                recorded.to_string()
            };
            // Numbers as decimals, keys in any order.
            let query = "select $1::text::jsonb = $2::text::jsonb";
            let is_equal = world
                .connection
                .client
                .query_one(query, &[&written, &recorded])
                .await
                .expect("both are JSON");
            assert!(
                is_equal.get::<_, bool>(0),
                "{name}, {column}: {written} instead of {recorded}"
            );
        }
    }
}
