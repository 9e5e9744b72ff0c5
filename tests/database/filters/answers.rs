//! Every value has the answer that PostgreSQL gives to the same comparison, whoever compares.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::Operator;
use realtime::control::changes::catalog::TableNow;
use realtime::control::changes::filter::{Asker, Filter, Truth, check};
use tokio_postgres::Client;

use super::{connected, table_now, text, wish};
use crate::postgres::{Cluster, Kind};

tests![answers_are_those_of_postgresql];

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
        &["24:00", "00:00:00.000001", "01:00 PM", "13:00:00.5"],
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

/// Filters of a sample beyond its own values.
const SPELLED: usize = 4;

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

/// A sample in a database: a table `t` with a column `v`, and what goes into it.
struct Stage<'a> {
    sample: &'a Sample,
    table: Rc<TableNow>,
    /// The type without its length.
    plain: String,
    /// Values as clients spell them.
    filters: Vec<String>,
    /// Values as they come out of the column; one of them is null.
    values: Vec<Option<String>>,
}

/// A comparison in PostgreSQL's words, and the values of its filters.
struct Comparison<'a> {
    operator: Operator,
    negate: bool,
    operands: &'a [String],
    expression: String,
}

/// Compares all values of a sample with each other, and counts who did.
async fn compare(client: &Client, sample: &Sample, differences: &mut String) -> (usize, usize) {
    let stage = stage(client, sample).await;
    let lists = lists(&stage);
    let (mut native, mut asked) = (0, 0);
    for comparison in comparisons(&stage, &lists) {
        if comparison.operands.is_empty() {
            continue;
        }
        let (of_native, of_asked) = play(client, &stage, &comparison, differences).await;
        native += of_native;
        asked += of_asked;
    }
    (native, asked)
}

async fn stage<'a>(client: &Client, sample: &'a Sample) -> Stage<'a> {
    let (type_name, more) = (sample.type_name, sample.more);
    let sql = async |text: String| {
        let outcome = client.batch_execute(&text).await;
        outcome.unwrap_or_else(|error| panic!("{type_name}: {text}: {error:?}"));
    };
    sql(format!(
        "drop table if exists t; create table t (v {type_name}); grant select on t to anon; select setseed(0.5)"
    ))
    .await;
    for column in 0..filters_max(sample) {
        sql(format!("alter table t add column c{column} {type_name}")).await;
    }
    let texts = |row: tokio_postgres::Row| -> Vec<Option<String>> { row.get(0) };
    let spelled = format!("select array(select {more} from generate_series(1, {SPELLED}) as g)");
    let spelled = client.query_one(&spelled, &[]).await.map(texts);
    let spelled = spelled.unwrap_or_else(|error| panic!("{type_name}: {error:?}"));
    let own = sample.values.iter().map(|&value| value.to_owned());
    let filters: Vec<String> = own.chain(spelled.into_iter().flatten()).collect();
    // A column takes what a filter is, but not what is longer than it.
    let width = match type_name {
        "varchar(3)" | "short" => 3,
        "char(5)" => 5,
        _ => 1000,
    };
    let insert = format!(
        "insert into t (v) select left(u, {width})::{type_name} from unnest($1::text[]) as u(u) \
         union all select ({more})::text::{type_name} from generate_series(1, {MORE}) as g union all select null"
    );
    let inserted = client.execute(&insert, &[&filters]).await;
    inserted.unwrap_or_else(|error| panic!("{type_name}: {error:?}"));
    let printed = "select array(select case when num_nulls(v) = 0 then format('%s', v) end from t)";
    let values = client.query_one(printed, &[]).await.map(texts);
    let plain = match type_name.split('(').next().unwrap_or(type_name) {
        "char" => "bpchar",
        "bit" => "varbit",
        plain => plain,
    };
    Stage {
        sample,
        table: table_now(client, "public", "t", &["anon"]).await,
        plain: plain.to_owned(),
        filters,
        values: values.expect("the table is there"),
    }
}

/// Filters of one comparison at most.
fn filters_max(sample: &Sample) -> usize {
    (sample.values.len() + SPELLED).max(5)
}

/// Arrays of a sample's values, with nulls and without any.
fn lists(stage: &Stage<'_>) -> Vec<String> {
    // An array type is its own array type, and has no comparison with it.
    if stage.plain.ends_with("[]") {
        return Vec::new();
    }
    let elements: Vec<Option<&str>> = stage.filters.iter().map(|value| Some(&**value)).collect();
    let lists = [
        Vec::new(),
        vec![None],
        elements[..2].to_vec(),
        elements.clone(),
        [&elements[1..], &[None]].concat(),
    ];
    lists.iter().map(|list| array(list)).collect()
}

fn comparisons<'a>(stage: &'a Stage<'_>, lists: &'a [String]) -> Vec<Comparison<'a>> {
    let plain = &stage.plain;
    let left = if plain == "bytea" {
        "substr(v.v, 3)::bytea".to_owned()
    } else {
        format!("v.v::{plain}")
    };
    let mut all = Vec::new();
    for (operator, sign) in OPERATORS {
        all.push((
            operator,
            &stage.filters[..],
            format!("{left} {sign} f.f::{plain}"),
        ));
    }
    all.push((
        Operator::In,
        lists,
        format!("{left} = any (f.f::{plain}[])"),
    ));
    let negated = all
        .iter()
        .map(|(operator, operands, expression)| Comparison {
            operator: *operator,
            negate: true,
            operands,
            expression: format!("not ({expression})"),
        });
    let negated: Vec<_> = negated.collect();
    all.push((Operator::Is, nulls(), format!("{left} is null")));
    let plain = all
        .into_iter()
        .map(|(operator, operands, expression)| Comparison {
            operator,
            negate: false,
            operands,
            expression,
        });
    // Of a row, that is not the same as the negation.
    let is_not_null = Comparison {
        operator: Operator::Is,
        negate: true,
        operands: nulls(),
        expression: format!("{left} is not null"),
    };
    plain.chain(negated).chain([is_not_null]).collect()
}

fn nulls() -> &'static [String] {
    static NULLS: std::sync::LazyLock<[String; 1]> =
        std::sync::LazyLock::new(|| ["null".to_owned()]);
    &*NULLS
}

/// Has every value compared by the filters and by PostgreSQL, and counts who did the former.
async fn play(
    client: &Client,
    stage: &Stage<'_>,
    comparison: &Comparison<'_>,
    differences: &mut String,
) -> (usize, usize) {
    let Comparison {
        operator,
        negate,
        operands,
        expression,
    } = comparison;
    let type_name = stage.sample.type_name;
    let values = &stage.values;
    let question = format!(
        "select array(select {expression} from unnest($1::text[]) with ordinality as f(f, n), \
         unnest($2::text[]) with ordinality as v(v, n) order by f.n, v.n)"
    );
    let expected = client.query_one(&question, &[operands, values]).await;
    let expected = expected.unwrap_or_else(|error| panic!("{type_name} {expression}: {error:?}"));
    let mut expected = expected.get::<_, Vec<Option<bool>>>(0).into_iter();
    let is_native = match operator {
        Operator::Is => type_name != "pair",
        Operator::Lt | Operator::Lte | Operator::Gt | Operator::Gte => stage.sample.is_order_native,
        _ => stage.sample.is_equality_native,
    };
    // A column for each, by which the filters that come back are told apart.
    let texts = operands.iter().enumerate();
    let texts = texts.map(|(column, value)| text(&format!("c{column}"), *operator, *negate, value));
    let checked = check(client, &stage.table, Some("anon"), &wish(texts.collect())).await;
    let checked = checked.unwrap_or_else(|error| panic!("{type_name} {operator:?}: {error:?}"));
    let filters: Vec<&Rc<Filter>> = (0..operands.len())
        .map(|column| {
            let name = format!("c{column}");
            let mut filters = checked.filters.iter();
            let filter = filters.find(|filter| filter.column() == name);
            filter.expect("every filter comes back")
        })
        .collect();
    let answers = answers(client, &filters, values, is_native).await;
    let (mut native, mut asked) = (0, 0);
    for ((operand, filter), answers) in operands.iter().zip(filters).zip(answers) {
        for ((value, answer), expected) in values.iter().zip(answers).zip(expected.by_ref()) {
            let is_asked = !is_native && value.is_some();
            *(if is_asked { &mut asked } else { &mut native }) += 1;
            // Of those that are asked only yes is told from the others.
            let expected = if is_asked {
                Some(expected == Some(true))
            } else {
                expected
            };
            if answer != expected {
                let _ = writeln!(
                    differences,
                    "{type_name}: {value:?} {operator:?} {operand:?}, negated {negate}: {answer:?}, PostgreSQL {expected:?}"
                );
            }
            if let (Some(equality), Some(value)) = (filter.equality(), value) {
                let is_equal = filter.canonical(value) == equality;
                assert_eq!(
                    is_equal,
                    expected == Some(true),
                    "{type_name} {value} {operand}"
                );
            }
        }
    }
    assert_eq!(expected.next(), None, "{type_name} {expression}");
    (native, asked)
}

/// The filters' answers, in the way that is expected.
async fn answers(
    client: &Client,
    filters: &[&Rc<Filter>],
    values: &[Option<String>],
    is_native: bool,
) -> Vec<Vec<Option<bool>>> {
    let (mut answers, mut questions) = (Vec::new(), Vec::new());
    for &filter in filters {
        let mut question: Vec<Box<str>> = Vec::new();
        let known = values.iter().map(|value| {
            let truth = filter.eval(value.as_deref());
            let is_as_expected = (truth == Truth::Ask) == (!is_native && value.is_some());
            assert!(is_as_expected, "{filter:?} of {value:?}: {truth:?}");
            match truth {
                Truth::Yes => Some(true),
                Truth::No => Some(false),
                Truth::Unknown => None,
                Truth::Ask => {
                    question.extend(value.as_deref().map(Into::into));
                    None
                }
            }
        });
        answers.push(known.collect::<Vec<_>>());
        questions.push((Rc::clone(filter), question));
    }
    let asked = Asker::default().ask(client, &questions).await;
    let asked = asked.expect("PostgreSQL runs").passed;
    for (answers, asked) in answers.iter_mut().zip(asked) {
        let values = answers.iter_mut().zip(values);
        let unanswered = values.filter(|(_, value)| !is_native && value.is_some());
        for ((answer, _), is_yes) in unanswered.zip(asked) {
            *answer = Some(is_yes);
        }
    }
    answers
}

/// The text of an array.
fn array(elements: &[Option<&str>]) -> String {
    let elements = elements.iter().map(|element| match element {
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        None => "NULL".to_owned(),
    });
    format!("{{{}}}", elements.collect::<Vec<_>>().join(","))
}
