//! Filters of Postgres Changes: what is refused when subscribing, in which words, and that every value has the answer that PostgreSQL
//! gives to the same comparison.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::catalog::{ColumnNow, RoleNow, TableNow};
use realtime::control::changes::filter::{CheckError, Checked, Filter, Truth, ask, check};
use realtime::control::changes::{FilterText, Operator, Wanted, Wish};
use realtime::control::database::{Connection, connect};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::postgres::{Cluster, Database, Kind};
use crate::turns;

tests![
    recorded_subscriptions_are_refused_as_they_were,
    types_without_the_operator_are_refused,
    what_one_wish_does_wrong_first_is_said,
    spellings_of_one_filter_are_one,
    answers_are_those_of_postgresql,
    an_error_is_of_one_value_alone,
    a_slow_filter_takes_no_answers_from_others,
    equal_questions_are_asked_once,
    a_check_takes_two_round_trips,
];

async fn connected(database: &Database) -> Connection {
    connect(&database.settings(), "realtime_test")
        .await
        .expect("PostgreSQL runs")
}

/// A table as it is now, for these roles.
async fn table_now(client: &Client, schema: &str, name: &str, roles: &[&str]) -> TableNow {
    let table = format!("{schema}.{name}");
    let rows = client
        .query(
            "select attname::text, attnum, atttypid, typname::text, attrelid
             from pg_attribute join pg_type t on t.oid = atttypid
             where attrelid = $1::text::regclass and attnum > 0 and not attisdropped order by attnum",
            &[&table],
        )
        .await
        .expect("the table is there");
    let columns: Vec<ColumnNow> = rows
        .iter()
        .map(|row| ColumnNow {
            name: row.get::<_, String>(0).into(),
            number: row.get(1),
            type_oid: row.get(2),
            type_modifier: -1,
            type_name: row.get::<_, String>(3).into(),
            key_place: None,
            is_deterministic: true,
        })
        .collect();
    let mut now = TableNow {
        oid: rows.first().map_or(0, |row| row.get(4)),
        schema: schema.into(),
        name: name.into(),
        is_rls_enabled: false,
        columns,
        roles: Default::default(),
    };
    for role in roles {
        let rows = client
            .query(
                "select has_column_privilege(r.oid, $2::text::regclass, attnum, 'select')
                 from pg_roles r, pg_attribute
                 where rolname = $1 and attrelid = $2::text::regclass and attnum > 0 and not attisdropped order by attnum",
                &[role, &table],
            )
            .await
            .expect("it is a statement");
        let role_now = RoleNow {
            exists: !rows.is_empty(),
            may_select: rows.iter().map(|row| row.get(0)).collect(),
            sees_all_rows: false,
        };
        now.roles.insert((*role).into(), role_now);
    }
    now
}

fn text(column: &str, operator: Operator, negate: bool, value: &str) -> FilterText {
    FilterText {
        column: column.to_owned(),
        operator,
        value: value.to_owned(),
        negate,
    }
}

fn wish(filters: Vec<FilterText>) -> Wish {
    Wish {
        wanted: Wanted::All,
        schema: "public".to_owned(),
        table: "t".to_owned(),
        filters,
        select: None,
    }
}

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
        include_str!("../conformance/vectors/postgres-changes/actions.json"),
        include_str!("../conformance/vectors/postgres-changes/filters.json"),
        include_str!("../conformance/vectors/postgres-changes/grants.json"),
        include_str!("../conformance/vectors/postgres-changes/roles.json"),
        include_str!("../conformance/vectors/postgres-changes/select.json"),
        include_str!("../conformance/vectors/postgres-changes/size.json"),
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
    assert_eq!((accepted, refused), (102, 20));
}

fn vectors(file: &str) -> Vec<Value> {
    serde_json::from_str(file).expect("the vectors are JSON")
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

/// A type, and who compares its values.
struct Sample {
    type_name: &'static str,
    is_equality_native: bool,
    is_order_native: bool,
    /// Values as a client may spell them.
    values: &'static [&'static str],
    /// An expression for more of them, of `g` from 1.
    more: &'static str,
}

const fn sample(
    type_name: &'static str,
    (is_equality_native, is_order_native): (bool, bool),
    values: &'static [&'static str],
    more: &'static str,
) -> Sample {
    Sample {
        type_name,
        is_equality_native,
        is_order_native,
        values,
        more,
    }
}

const NATIVE: (bool, bool) = (true, true);
const EQUALITY: (bool, bool) = (true, false);
const ASKED: (bool, bool) = (false, false);

const SAMPLES: &[Sample] = &[
    sample(
        "smallint",
        NATIVE,
        &["-32768", " 7", "032767"],
        "(random() * 20 - 10)::int::text",
    ),
    sample(
        "integer",
        NATIVE,
        &["-2147483648", "0", "2147483647 "],
        "(random() * 4e9 - 2e9)::bigint::text",
    ),
    sample(
        "bigint",
        NATIVE,
        &["-9223372036854775808", "9223372036854775807", "-0"],
        "((random() - 0.5) * 1.8e19)::bigint::text",
    ),
    sample(
        "oid",
        NATIVE,
        &["0", "4294967295", "10"],
        "(random() * 4e9)::bigint::text",
    ),
    sample(
        "numeric",
        NATIVE,
        &[
            "NaN",
            "Infinity",
            "-inf",
            "1e2",
            "100.00",
            "-0.0",
            "10.50",
            "123456789012345678901234567890.5",
        ],
        "round(((random() - 0.5) * 10 ^ (g % 12))::numeric, g % 5)::text",
    ),
    sample(
        "numeric(6,2)",
        NATIVE,
        &["NaN", "1e2", "100.004", "-0.001"],
        "round(((random() - 0.5) * 1000)::numeric, 2)::text",
    ),
    sample(
        "real",
        NATIVE,
        &[
            "NaN",
            "-0",
            "0",
            "inf",
            "-Infinity",
            "0.1",
            "1e-7",
            "3.4e38",
        ],
        "((random() - 0.5) * 10 ^ (g % 9))::real::text",
    ),
    sample(
        "double precision",
        NATIVE,
        &[
            "NaN",
            "-0",
            "0",
            "inf",
            "-Infinity",
            "0.1",
            "1e21",
            "5e-324",
        ],
        "((random() - 0.5) * 10 ^ (g * 3))::text",
    ),
    sample("boolean", NATIVE, &["yes", "off", "T"], "(g % 2 = 0)::text"),
    sample(
        "uuid",
        NATIVE,
        &[
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{00000000000000000000000000000000}",
        ],
        "gen_random_uuid()::text",
    ),
    sample(
        "date",
        NATIVE,
        &[
            "infinity",
            "-infinity",
            "0044-03-15 BC",
            "0001-12-31 BC",
            "Jan 5 2024",
            "10001-01-01",
            "5874897-12-31",
        ],
        "(date '2000-01-01' + (random() * 2e6 - 1e6)::int)::text",
    ),
    sample(
        "timestamp",
        NATIVE,
        &[
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00.5 BC",
            "2024-01-01",
            "2024-01-01 00:00:00.10",
            "294276-12-31 23:59:59.999999",
        ],
        "(timestamp '2000-01-01' + (random() * 1e10 - 5e9)::bigint * interval '100 ms')::text",
    ),
    sample(
        "timestamptz",
        NATIVE,
        &[
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00.5+00 BC",
            "2024-01-01 00:00+02",
            "2023-12-31T22:00:00Z",
            "20240101 America/New_York",
        ],
        "(timestamptz '2000-01-01' + (random() * 1e10 - 5e9)::bigint * interval '100 ms')::text",
    ),
    sample(
        "time",
        NATIVE,
        &["24:00", "00:00:00.000001", "1 pm", "13:00:00.5"],
        "(time '00:00' + g * interval '0.1 s')::text",
    ),
    sample(
        "macaddr",
        NATIVE,
        &["08-00-2B-01-02-03", "ff:ff:ff:ff:ff:ff"],
        "'08:00:2b:01:02:' || lpad(to_hex(g), 2, '0')",
    ),
    sample(
        "macaddr8",
        NATIVE,
        &["08-00-2B-01-02-03", "ff:ff:ff:ff:ff:ff:00:00"],
        "'08:00:2b:01:02:03:04:' || lpad(to_hex(g), 2, '0')",
    ),
    sample(
        "pg_lsn",
        NATIVE,
        &["0/0", "ffffffff/ffffffff", "A/B", "B/A"],
        "to_hex(g) || '/' || to_hex((random() * 1e9)::int)",
    ),
    sample(
        "bytea",
        NATIVE,
        &["\\xde", "\\x", "de", "ab", "abc", "\\x00ff", "0", "f"],
        "'\\x' || to_hex(16 + g)",
    ),
    sample(
        "text",
        EQUALITY,
        &["", "a", "a ", "A", "ä", "O'Brien \\ \"x\"", "null", "{1}"],
        "chr(96 + g) || repeat('x', g % 3)",
    ),
    sample(
        "varchar(3)",
        EQUALITY,
        &["", "a", "a ", "abc", "abcdef"],
        "chr(96 + g) || repeat('x', g % 3)",
    ),
    sample(
        "name",
        EQUALITY,
        &[
            "",
            "a",
            "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij",
        ],
        "chr(96 + g)",
    ),
    sample(
        "char(5)",
        EQUALITY,
        &["", "a", "a  ", "abcde", "abcdefg", "a\t"],
        "chr(96 + g) || repeat('x', g % 3)",
    ),
    sample("\"char\"", EQUALITY, &["", "a", "ab"], "chr(96 + g)"),
    sample(
        "mood",
        EQUALITY,
        &["sad", "ok", "happy", "a 'b' c"],
        "(array['ok','sad'])[1 + g % 2]",
    ),
    sample(
        "inet",
        EQUALITY,
        &[
            "10.0.0.1",
            "10.0.0.1/32",
            "10.0.0.1/8",
            "::1",
            "0:0:0:0:0:0:0:1",
            "::ffff:10.0.0.1",
        ],
        "'10.0.0.' || g",
    ),
    sample(
        "cidr",
        EQUALITY,
        &["10", "10.0.0.0/8", "::/0"],
        "'10.0.' || g || '.0/24'",
    ),
    sample(
        "timetz",
        EQUALITY,
        &["12:00+00", "13:00+01", "12:00:00.5-03:30"],
        "(timetz '12:00+00' + g * interval '0.1 s')::text",
    ),
    sample(
        "bit(3)",
        EQUALITY,
        &["000", "101", "1"],
        "(g % 8)::bit(3)::text",
    ),
    sample(
        "varbit",
        EQUALITY,
        &["", "0", "00", "101"],
        "(g % 8)::bit(3)::text",
    ),
    sample("positive", NATIVE, &["1", "007", "2147483647"], "g::text"),
    sample("nested", NATIVE, &["8", "0009"], "(g + 7)::text"),
    sample("short", EQUALITY, &["a", "abc"], "chr(96 + g)"),
    sample("folded", ASKED, &["a", "A", "ä"], "chr(64 + g) || 'x'"),
    sample(
        "interval",
        ASKED,
        &["1 mon", "30 days", "720:00:00"],
        "(g * interval '6 hours')::text",
    ),
    sample("money", ASKED, &["1.5", "$1.50", "-2"], "g::text"),
    sample(
        "jsonb",
        ASKED,
        &["1", "1.0", "{\"a\": 1}", "{\"a\":1.00}", "null", "[1,2]"],
        "to_jsonb(g)::text",
    ),
    sample(
        "int[]",
        ASKED,
        &["{}", "{1,2}", "[0:1]={1,2}", "{1,NULL}"],
        "array[g, g + 1]::text",
    ),
    sample(
        "pair",
        ASKED,
        &["(1,a)", "(,)", "(2,\"b c\")"],
        "row(g, 'x')::text",
    ),
    sample(
        "int4range",
        ASKED,
        &["[1,3)", "[1,2]", "empty"],
        "int4range(g, g + 2)::text",
    ),
    sample("tsvector", ASKED, &["a b", "b a", ""], "chr(96 + g)"),
];

const OPERATORS: [(Operator, &str); 7] = [
    (Operator::Eq, "="),
    (Operator::Neq, "<>"),
    (Operator::Lt, "<"),
    (Operator::Lte, "<="),
    (Operator::Gt, ">"),
    (Operator::Gte, ">="),
    (Operator::IsDistinct, "is distinct from"),
];

/// Texts of a sample's values beyond its own.
const MORE: usize = 12;

async fn answers_are_those_of_postgresql(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(
        "create type mood as enum ('sad', 'ok', 'happy', 'a ''b'' c');
         create domain positive as int check (value > 0);
         create domain nested as positive check (value > 7);
         create domain short as char(3);
         create collation case_blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create domain folded as text collate case_blind;
         create type pair as (a int, b text);",
    );
    let connection = connected(&database).await;
    let client = &connection.client;
    let (mut native, mut asked, mut differences) = (0_usize, 0_usize, String::new());
    for sample in SAMPLES {
        let (of_native, of_asked) = compare(client, sample, &mut differences).await;
        native += of_native;
        asked += of_asked;
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(native > 20_000 && asked > 10_000, "{native} and {asked}");
}

/// Compares all values of a sample with each other, and counts who did.
async fn compare(client: &Client, sample: &Sample, differences: &mut String) -> (usize, usize) {
    let type_name = sample.type_name;
    client
        .batch_execute(&format!("drop table if exists t; create table t (v {type_name}); grant select on t to anon; select setseed(0.5)"))
        .await
        .unwrap_or_else(|error| panic!("{type_name}: {error}"));
    let table = table_now(client, "public", "t", &["anon"]).await;
    let plain = type_name.split('(').next().expect("it has a beginning");
    let plain = if plain == "char" { "bpchar" } else { plain };
    let plain = if plain == "bit" { "varbit" } else { plain };
    let more = &sample.more;
    let spelled: Vec<String> = client
        .query_one(
            &format!("select array(select {more} from generate_series(1, {MORE}) as g)"),
            &[],
        )
        .await
        .unwrap_or_else(|error| panic!("{type_name}: {error:?}"))
        .get(0);
    let own = sample.values.iter().map(|&value| value.to_owned());
    let filters: Vec<String> = own.chain(spelled.into_iter().take(4)).collect();
    // Values as they come out of a column.
    client
        .batch_execute("truncate t")
        .await
        .expect("it is there");
    client
        .execute(&format!("insert into t select {} from unnest($1::text[]) as u(u) union all select {} from generate_series(1, {MORE}) as g union all select null",
            format_args!("left(u, {})::{type_name}", width(type_name)), format_args!("({more})::text::{type_name}")), &[&filters])
        .await
        .unwrap_or_else(|error| panic!("{type_name}: {error:?}"));
    let values: Vec<Option<String>> = client
        .query_one(
            "select array(select case when num_nulls(v) = 0 then format('%s', v) end from t)",
            &[],
        )
        .await
        .expect("it is there")
        .get(0);
    let left = if type_name == "bytea" {
        "substr(v.v, 3)::bytea".to_owned()
    } else {
        format!("v.v::{plain}")
    };
    let (mut native, mut asked) = (0, 0);
    let mut lists = Vec::new();
    if !type_name.ends_with("[]") {
        let elements: Vec<Option<&str>> = filters.iter().map(|value| Some(&**value)).collect();
        lists = vec![
            Vec::new(),
            vec![None],
            elements[..2].to_vec(),
            elements.clone(),
            [&elements[1..], &[None]].concat(),
        ];
    }
    let lists: Vec<String> = lists.iter().map(|list| array(list)).collect();
    let nulls = ["null".to_owned()];
    let by_order = [Operator::Lt, Operator::Lte, Operator::Gt, Operator::Gte];
    let mut rows: Vec<(Operator, &[String], String)> = OPERATORS
        .iter()
        .map(|(operator, sign)| {
            (
                *operator,
                &filters[..],
                format!("{left} {sign} f.f::{plain}"),
            )
        })
        .collect();
    rows.push((
        Operator::In,
        &lists,
        format!("{left} = any (f.f::{plain}[])"),
    ));
    rows.push((Operator::Is, &nulls, format!("{left} is null")));
    for (operator, operands, expression) in rows {
        for negate in [false, true] {
            let expression = match (negate, operator) {
                (false, _) => expression.clone(),
                (true, Operator::Is) => format!("{left} is not null"),
                (true, _) => format!("not ({expression})"),
            };
            let expected: Vec<Option<bool>> = client
                .query_one(&format!("select array(select {expression} from unnest($1::text[]) with ordinality as f(f, n), \
                    unnest($2::text[]) with ordinality as v(v, n) order by f.n, v.n)"), &[&operands, &values])
                .await
                .unwrap_or_else(|error| panic!("{type_name} {expression}: {error:?}"))
                .get(0);
            let is_native = match operator {
                Operator::Is => type_name != "pair",
                operator if by_order.contains(&operator) => sample.is_order_native,
                _ => sample.is_equality_native,
            };
            let mut expected = expected.into_iter();
            for operand in operands {
                let wish = wish(vec![text("v", operator, negate, operand)]);
                let checked = check(client, &table, Some("anon"), &wish).await;
                let checked = checked.unwrap_or_else(|error| {
                    panic!("{type_name} {operator:?} {operand}: {error:?}")
                });
                let filter = &checked.filters[0];
                let answers = answers(client, filter, &values, is_native).await;
                for ((value, answer), expected) in values.iter().zip(answers).zip(expected.by_ref())
                {
                    if is_native || value.is_none() {
                        native += 1;
                    } else {
                        asked += 1;
                    }
                    // Of those that are asked only yes is told from the others.
                    let is_same = answer == expected
                        || !is_native && value.is_some() && answer == Some(expected == Some(true));
                    if !is_same {
                        let _ = writeln!(
                            differences,
                            "{type_name}: {value:?} {operator:?} {operand:?}, negated {negate}: {answer:?}, PostgreSQL {expected:?}"
                        );
                    }
                    if let (Some(equality), Some(value)) = (filter.equality(), value) {
                        assert_eq!(
                            filter.canonical(value) == equality,
                            expected == Some(true),
                            "{type_name} {value} {operand}"
                        );
                    }
                }
            }
        }
    }
    (native, asked)
}

/// What a value may be long so that a column takes it as a filter does.
fn width(type_name: &str) -> u32 {
    match type_name {
        "varchar(3)" | "short" => 3,
        "char(5)" => 5,
        _ => 1000,
    }
}

/// The filter's answers, in the way that is expected.
async fn answers(
    client: &Client,
    filter: &Rc<Filter>,
    values: &[Option<String>],
    is_native: bool,
) -> Vec<Option<bool>> {
    let mut questions = Vec::new();
    let mut answers = Vec::new();
    for value in values {
        let truth = filter.eval(value.as_deref());
        answers.push(match truth {
            Truth::Yes => Some(true),
            Truth::No => Some(false),
            Truth::Unknown => None,
            Truth::Ask => {
                assert!(!is_native, "{filter:?} does not know {value:?}");
                questions.push(value.as_deref().expect("nulls are not asked for").into());
                continue;
            }
        });
        assert!(is_native || value.is_none(), "{filter:?} knows {value:?}");
    }
    if questions.is_empty() {
        return answers;
    }
    let asked = ask(client, &[(Rc::clone(filter), questions)]).await;
    let mut asked = asked.expect("PostgreSQL runs").remove(0).into_iter();
    let mut known = answers.into_iter();
    values
        .iter()
        .map(|value| match value {
            None => known.next().expect("nulls have their answer"),
            Some(_) => Some(asked.next().expect("every value has its answer")),
        })
        .collect()
}

/// The text of an array.
fn array(elements: &[Option<&str>]) -> String {
    let elements = elements.iter().map(|element| match element {
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        None => "NULL".to_owned(),
    });
    format!("{{{}}}", elements.collect::<Vec<_>>().join(","))
}

/// The filters of a wish on `t`.
async fn checked(client: &Client, filters: Vec<FilterText>) -> Vec<Rc<Filter>> {
    let table = table_now(client, "public", "t", &["anon"]).await;
    let checked = check(client, &table, Some("anon"), &wish(filters)).await;
    checked.expect("they are right").filters.to_vec()
}

fn boxed(values: &[&str]) -> Vec<Box<str>> {
    values.iter().map(|&value| value.into()).collect()
}

async fn an_error_is_of_one_value_alone(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    // A comparison that fails for one value, as an extension's may.
    database.sql(
        "create type odd as (x int);
         create function odd_lt(odd, odd) returns boolean language sql immutable as 'select 1 / ($1.x - 13) < $2.x';
         create operator < (leftarg = odd, rightarg = odd, function = odd_lt);
         create table t (o odd, s text);
         grant select on t to anon",
    );
    let connection = connected(&database).await;
    let client = &connection.client;
    let lt = |value: &str| text("o", Operator::Lt, false, value);
    let filters = checked(client, vec![lt("(1)"), lt("(2)"), lt("(-5)")]).await;
    assert_eq!(filters.len(), 3);
    let values: Vec<Box<str>> = (0..40).map(|x| format!("({x})").into()).collect();
    let questions: Vec<_> = filters
        .iter()
        .map(|filter| (Rc::clone(filter), values.clone()))
        .collect();
    let like = checked(client, vec![text("s", Operator::Like, false, "%x")]).await;
    let mut questions = questions;
    questions.push((Rc::clone(&like[0]), boxed(&["x", "y"])));
    let answers = ask(client, &questions)
        .await
        .expect("it is the value's error alone");
    for (filter, answers) in filters.iter().zip(&answers) {
        let limit = ["(-5)", "(1)", "(2)"]
            .iter()
            .position(|limit| format!("{filter:?}").contains(&format!("One(\"{limit}\")")));
        let limit = [-5, 1, 2][limit.expect("it is one of them")];
        let expected: Vec<bool> = (0..40)
            .map(|x: i32| x != 13 && 1 / (x - 13) < limit)
            .collect();
        assert_eq!(*answers, expected, "{filter:?}");
    }
    assert_eq!(answers[3], [true, false]);
    // What is no value of the type at all is an error as well.
    let answers = ask(
        client,
        &[(Rc::clone(&filters[2]), boxed(&["(x)", "(0)", "nonsense"]))],
    )
    .await;
    assert_eq!(
        answers.expect("it is the value's error alone"),
        [[false, true, false]]
    );
    // And the connection's errors are nobody's answer.
    let backend: i32 = client
        .query_one("select pg_backend_pid()", &[])
        .await
        .expect("it answers")
        .get(0);
    database.sql(&format!("select pg_terminate_backend({backend}, 5000)"));
    assert!(ask(client, &questions).await.is_err());
}

async fn a_slow_filter_takes_no_answers_from_others(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(
        "create type odd as (x int);
         create function odd_lt(odd, odd) returns boolean language sql as
           'select case when $2.x = 7 and $1.x > 10 then pg_sleep(60) is not null else true end';
         create operator < (leftarg = odd, rightarg = odd, function = odd_lt);
         create table t (o odd);
         grant select on t to anon",
    );
    let connection = connected(&database).await;
    let client = &connection.client;
    let lt = |value: &str| text("o", Operator::Lt, false, value);
    let filters = checked(client, vec![lt("(7)"), lt("(0)"), lt("(-7)")]).await;
    let values = boxed(&["(1)", "(11)"]);
    let questions: Vec<_> = filters
        .iter()
        .map(|filter| (Rc::clone(filter), values.clone()))
        .collect();
    let answers = ask(client, &questions).await.expect("PostgreSQL runs");
    for (filter, answers) in filters.iter().zip(answers) {
        let is_slow = format!("{filter:?}").contains("One(\"(7)\")");
        assert_eq!(answers, [!is_slow, !is_slow], "{filter:?}");
    }
}

async fn equal_questions_are_asked_once(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql("create table t (s text); grant select on t to anon");
    let connection = connected(&database).await;
    let client = &connection.client;
    let filters = checked(
        client,
        vec![
            text("s", Operator::Ilike, false, "A%"),
            text("s", Operator::Ilike, false, "b%"),
            text("s", Operator::Match, true, "^a"),
        ],
    )
    .await;
    let values = boxed(&["a", "b", "a", "c", "a"]);
    let questions: Vec<_> = filters
        .iter()
        .chain(&filters)
        .map(|filter| (Rc::clone(filter), values.clone()))
        .collect();
    let (turning, turns) = turns::connect(&database).await;
    let answers = ask(&turning, &questions).await.expect("PostgreSQL runs");
    let counted = turns.take();
    let of = |needle: &str| {
        filters
            .iter()
            .position(|filter| format!("{filter:?}").contains(needle))
            .expect("it is there")
    };
    assert_eq!(answers[of("\"A%\"")], [true, false, true, false, true]);
    assert_eq!(
        answers[of("\"b%\"") + 3],
        [false, true, false, false, false]
    );
    assert_eq!(answers[of("\"^a\"")], [false, true, false, true, false]);
    // Two kinds of questions: two transactions of a statement each, in one turn.
    assert_eq!(counted.turns, 1);
    assert_eq!(counted.parsed, 2);
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
