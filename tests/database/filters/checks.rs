//! What is refused when subscribing, in which words and at what cost.

use std::fmt::Write as _;
use std::sync::Arc;

use realtime::control::changes::filter::{CheckError, Checked, check};
use realtime::control::changes::{FilterText, Operator, Wish};
use serde_json::{Value, json};

use super::{connected, table_now, text, wish};
use crate::postgres::{ADMIN, Cluster, Kind};
use crate::turns;

tests![
    recorded_subscriptions_are_refused_as_they_were,
    roles_that_see_everything_are_refused_as_if_there_were_none,
    roles_whose_names_are_read_otherwise_are_refused,
    types_without_the_operator_are_refused,
    what_one_wish_does_wrong_first_is_said,
    spellings_of_one_filter_are_one,
    a_check_takes_two_round_trips,
];

/// The outcome in the words of the vectors.
fn outcome_of(checked: &Result<Checked, CheckError>) -> Value {
    match checked {
        Ok(_) => json!("ok"),
        Err(CheckError::Database(said)) => {
            json!({"sqlstate": said.code().code(), "message": said.message()})
        }
        Err(CheckError::Raised { sqlstate, message }) => {
            json!({"sqlstate": sqlstate, "message": message})
        }
        Err(CheckError::Failed(error)) => panic!("{error}"),
    }
}

async fn recorded_subscriptions_are_refused_as_they_were(cluster: Arc<Cluster>) {
    let files = [
        include_str!("../../conformance/vectors/postgres-changes/actions.json"),
        include_str!("../../conformance/vectors/postgres-changes/filters.json"),
        include_str!("../../conformance/vectors/postgres-changes/grants.json"),
        include_str!("../../conformance/vectors/postgres-changes/roles.json"),
        include_str!("../../conformance/vectors/postgres-changes/select.json"),
        include_str!("../../conformance/vectors/postgres-changes/size.json"),
    ];
    let (mut accepted, mut refused, mut differences) = (0, 0, String::new());
    for vector in files.iter().flat_map(|file| vectors(file)) {
        let database = cluster.database(Kind::Empty);
        let connection = connected(&database).await;
        let client = &connection.client;
        for statement in vector["setup"].as_array().expect("it is a list") {
            let statement = statement.as_str().expect("it is text");
            client.batch_execute(statement).await.expect("it is SQL");
        }
        for subscription in vector["subscriptions"].as_array().expect("it is a list") {
            // The original reads a null role as the text.
            let role = match &subscription["claims"]["role"] {
                Value::Null if subscription["claims"].get("role").is_some() => Some("null"),
                role => role.as_str(),
            };
            let wish = match Wish::parse(&subscription["params"].to_string()) {
                Ok(wish) => wish,
                Err(_) if subscription["error"]["parse"].is_string() => continue,
                Err(error) => panic!("{subscription}: {error}"),
            };
            let roles: Vec<&str> = role.into_iter().collect();
            let table = table_now(client, &wish.schema, &wish.table, &roles).await;
            let seen = outcome_of(&check(client, &table, role, &wish).await);
            let expected = match &subscription["error"] {
                Value::Null => json!("ok"),
                error => error.clone(),
            };
            *(if expected == "ok" {
                &mut accepted
            } else {
                &mut refused
            }) += 1;
            if seen != expected {
                let _ = writeln!(differences, "{subscription}\n  seen {seen}");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert_eq!((accepted, refused), (111, 21));
}

fn vectors(file: &str) -> Vec<Value> {
    serde_json::from_str(file).expect("the vectors are JSON")
}

async fn roles_whose_names_are_read_otherwise_are_refused(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    // Roles belong to the cluster.
    let roles = [
        "ck_Odd", "ck odd", "ck.odd", "\"ck", "ck\"odd", "ck-odd", "ck_é",
    ];
    for role in roles {
        let role = role.replace('"', "\"\"");
        database.sql(&format!("create role \"{role}\""));
    }
    database.sql("create table t (id int primary key); grant select on t to public");
    let connection = connected(&database).await;
    let client = &connection.client;
    let table = table_now(client, "public", "t", &roles).await;
    for (role, expected) in [
        (
            "ck_Odd",
            "ERROR 42704 (undefined_object) role \"ck_odd\" does not exist",
        ),
        ("ck odd", "ERROR 42602 (invalid_name) invalid name syntax"),
        ("ck.odd", "ERROR 42602 (invalid_name) invalid name syntax"),
        ("\"ck", "ERROR 42602 (invalid_name) invalid name syntax"),
        // Within a name it is a letter.
        ("ck\"odd", ""),
        ("ck-odd", ""),
        ("ck_é", ""),
    ] {
        let said =
            |outcome: Result<Checked, CheckError>| outcome.err().and_then(|error| error.text());
        let outcome = check(client, &table, Some(role), &wish(Vec::new())).await;
        assert_eq!(said(outcome).unwrap_or_default(), expected, "{role}");
        // What is wrong with a filter is said before.
        let filter = wish(vec![text("none", Operator::Eq, false, "1")]);
        let outcome = said(check(client, &table, Some(role), &filter).await);
        let expected = "ERROR P0001 (raise_exception) invalid column for filter none";
        assert_eq!(outcome.as_deref(), Some(expected), "{role}");
    }
    for role in roles {
        let role = role.replace('"', "\"\"");
        database.sql(&format!("drop role \"{role}\""));
    }
}

async fn types_without_the_operator_are_refused(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(
        "create type pair as (a int, b json);
         create table t (id int, j json, js json[], p point, x xml, v varchar, arr int[], r pair, d date, b bytea);
         grant select on t to anon",
    );
    let connection = connected(&database).await;
    let client = &connection.client;
    let table = table_now(client, "public", "t", &["anon"]).await;
    let refuses = async |column: &str, operator, negate, value: &str, expected: &str| {
        let wish = wish(vec![text(column, operator, negate, value)]);
        let outcome = check(client, &table, Some("anon"), &wish).await;
        let said = outcome.err().and_then(|error| error.text());
        let said = said.unwrap_or_default();
        assert!(
            said.starts_with(expected),
            "{column} {operator:?} {value}: {said:?}"
        );
    };
    let undefined = "ERROR 42883 (undefined_function) ";
    for (column, operator, value, message) in [
        (
            "j",
            Operator::Eq,
            "{}",
            "operator does not exist: json = json",
        ),
        (
            "j",
            Operator::Neq,
            "{}",
            "operator does not exist: json <> json",
        ),
        (
            "j",
            Operator::IsDistinct,
            "{}",
            "operator does not exist: json = json",
        ),
        (
            "j",
            Operator::In,
            "{1}",
            "operator does not exist: json = json",
        ),
        (
            "j",
            Operator::In,
            "{}",
            "operator does not exist: json = json",
        ),
        (
            "js",
            Operator::Eq,
            "{1}",
            "could not identify an equality operator for type json",
        ),
        (
            "p",
            Operator::Eq,
            "(1,2)",
            "operator does not exist: point = point",
        ),
        (
            "p",
            Operator::Gt,
            "(1,2)",
            "operator does not exist: point > point",
        ),
        (
            "x",
            Operator::Eq,
            "<a/>",
            "operator does not exist: xml = xml",
        ),
        (
            "arr",
            Operator::In,
            "{1}",
            "operator does not exist: integer[] = integer",
        ),
        (
            "r",
            Operator::Eq,
            "(1,2)",
            "could not identify an equality operator for type json",
        ),
        (
            "r",
            Operator::In,
            "{\"(1,2)\"}",
            "could not identify an equality operator for type json",
        ),
    ] {
        for negate in [false, true] {
            refuses(
                column,
                operator,
                negate,
                value,
                &format!("{undefined}{message}"),
            )
            .await;
        }
    }
    // A value that is none of its type is said before the operator is missed, as there.
    refuses(
        "j",
        Operator::Eq,
        false,
        "{",
        "ERROR 22P02 (invalid_text_representation) invalid input syntax for type json",
    )
    .await;
    // The type itself has to have the operator, and varchar borrows that of text.
    refuses("v", Operator::Like, false, "a%", "ERROR P0001 (raise_exception) operator like requires a text-compatible column type, got character varying").await;
    refuses("d", Operator::Imatch, true, "a", "ERROR P0001 (raise_exception) operator imatch requires a text-compatible column type, got date").await;
    refuses(
        "b",
        Operator::Like,
        false,
        "\\",
        "ERROR 22P02 (invalid_text_representation) invalid input syntax for type bytea",
    )
    .await;
    refuses("id", Operator::Eq, false, "1\0", "ERROR 22021 (character_not_in_repertoire) invalid byte sequence for encoding \"UTF8\": 0x00").await;
}

async fn what_one_wish_does_wrong_first_is_said(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql("create table t (id int, s text, hidden int); grant select (id, s) on t to anon");
    let connection = connected(&database).await;
    let client = &connection.client;
    let table = table_now(client, "public", "t", &["anon", "nobody"]).await;
    let says =
        async |role: Option<&str>, filters: Vec<FilterText>, select: &[&str], expected: &str| {
            let select = select.iter().map(|&name| name.to_owned()).collect();
            let wish = Wish {
                select: Some(select),
                ..wish(filters)
            };
            let outcome = check(client, &table, role, &wish).await;
            let said = outcome.err().and_then(|error| error.text());
            assert_eq!(said.as_deref().unwrap_or("ok"), expected);
        };
    let raise = |message: &str| format!("ERROR P0001 (raise_exception) {message}");
    let anon = Some("anon");
    let bad_value = || text("id", Operator::Eq, false, "x");
    let bad_column = || text("nope", Operator::Eq, false, "x");
    let bad_is = || text("s", Operator::Is, false, "TRUE");
    let good = || text("s", Operator::Eq, false, "x");
    let syntax =
        "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"x\"";
    let is = raise("invalid value for is filter: must be null, true, false, or unknown");
    says(
        anon,
        vec![bad_value(), bad_column(), bad_is()],
        &["nope"],
        syntax,
    )
    .await;
    says(
        anon,
        vec![bad_column(), bad_value()],
        &[],
        &raise("invalid column for filter nope"),
    )
    .await;
    says(anon, vec![bad_is(), bad_value()], &[], &is).await;
    says(anon, vec![good(), bad_is(), bad_value()], &[], &is).await;
    says(anon, vec![good(), bad_value(), bad_is()], &[], syntax).await;
    says(
        anon,
        vec![good()],
        &["s", "hidden"],
        &raise("invalid column for select hidden"),
    )
    .await;
    says(
        anon,
        vec![text("hidden", Operator::Is, false, "null")],
        &[],
        &raise("invalid column for filter hidden"),
    )
    .await;
    let imatch = raise(
        "invalid regular expression for imatch filter: invalid regular expression: brackets [] not balanced",
    );
    // A pattern that no text can be compared with fails for its values alone, when there are some.
    says(
        anon,
        vec![text("s", Operator::Like, false, "a\\")],
        &[],
        "ok",
    )
    .await;
    says(
        anon,
        vec![text("s", Operator::Imatch, false, "[")],
        &[],
        &imatch,
    )
    .await;
    says(anon, vec![good()], &["s", "id", "s"], "ok").await;
    let unknown = "ERROR 42704 (undefined_object) role \"nobody\" does not exist";
    says(Some("nobody"), vec![bad_column()], &[], unknown).await;
    says(
        None,
        vec![good()],
        &[],
        &raise("invalid column for filter s"),
    )
    .await;
    let select = wish(Vec::new());
    let select = Wish {
        select: Some(vec!["s".to_owned(), "id".to_owned(), "s".to_owned()]),
        ..select
    };
    let checked = check(client, &table, anon, &select)
        .await
        .expect("it is right");
    assert_eq!(
        checked.select.as_deref(),
        Some(&["id".into(), "s".into()][..])
    );
}

async fn spellings_of_one_filter_are_one(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql("create table t (id int, n numeric, u uuid, s text); grant select on t to anon");
    let connection = connected(&database).await;
    let client = &connection.client;
    let table = table_now(client, "public", "t", &["anon"]).await;
    let of = async |filters: Vec<FilterText>| {
        let checked = check(client, &table, Some("anon"), &wish(filters)).await;
        checked.expect("they are right").filters
    };
    let one = of(vec![
        text("n", Operator::Neq, false, "10.5"),
        text("id", Operator::Lt, true, " 7"),
        text("s", Operator::In, false, "{b,\"a\"}"),
    ]);
    let other = of(vec![
        text("s", Operator::In, false, "{a,b,a}"),
        text("id", Operator::Gte, false, "07"),
        text("n", Operator::Eq, true, "1.0500e1"),
        text("n", Operator::Neq, false, "10.50"),
    ]);
    let (one, other) = tokio::join!(one, other);
    assert_eq!(one, other);
    assert_eq!(one.len(), 3);
    let uuid = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
    let filters = of(vec![text("u", Operator::Eq, false, uuid)]).await;
    assert_eq!(filters[0].equality(), Some(&*uuid.to_lowercase()));
    assert_eq!(filters[0].column(), "u");
    assert_eq!(filters[0].type_oid(), 2950);
}

async fn a_check_takes_two_round_trips(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql("create table t (id int, s text, j jsonb); grant select on t to anon");
    let (client, turns) = turns::connect(&database).await;
    let table = table_now(&client, "public", "t", &["anon"]).await;
    let takes = async |filters: Vec<FilterText>, expected: usize| {
        turns.take();
        let checked = check(&client, &table, Some("anon"), &wish(filters)).await;
        checked.expect("they are right");
        assert_eq!(turns.take().turns, expected);
    };
    takes(Vec::new(), 0).await;
    takes(vec![text("s", Operator::Is, false, "null")], 1).await;
    takes(vec![text("id", Operator::Eq, false, "1")], 2).await;
    let many = (0..20).map(|id| text("id", Operator::Neq, false, &id.to_string()));
    let many = many.chain([
        text("j", Operator::Eq, false, "{}"),
        text("s", Operator::Match, false, "a+"),
    ]);
    takes(many.collect(), 2).await;
}

async fn roles_that_see_everything_are_refused_as_if_there_were_none(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql("create role chk_super superuser; create table t (id int primary key); grant select on t to public");
    let connection = connected(&database).await;
    let oid = crate::catalog::oid(&database, "t");
    for role in ["chk_super", ADMIN, "nobody"] {
        let table = crate::catalog::look(&connection.client, oid, &[role]).await;
        let seen = check(&connection.client, &table, Some(role), &wish(vec![])).await;
        let expected =
            json!({"sqlstate": "42704", "message": format!("role \"{role}\" does not exist")});
        assert_eq!(outcome_of(&seen), expected);
    }
    database.sql("drop role chk_super");
}
