//! Values of changed rows in JSON, as the server writes them, against what PostgreSQL's `to_jsonb` makes of them.
//!
//! A value is made by an expression in SQL; PostgreSQL prints it as a replication stream has it, and its JSON, which has to be ours
//! byte for byte. What wal2json makes of a column that is bytes or no number is the one difference.

use std::sync::Arc;

use realtime::control::changes::types::{Kind as TypeKind, Malformed, Type, Types, ask_json};
use realtime::control::database::connect::describe;
use realtime::control::database::{Connection, connect};
use serde_json::Value;

use crate::postgres::{Cluster, Database, Kind};

tests![
    built_in_types_are_as_the_catalog_has_them,
    simple_values_are_what_to_jsonb_makes_of_them,
    generated_numbers_are_what_to_jsonb_makes_of_them,
    generated_moments_are_what_to_jsonb_makes_of_them,
    arrays_are_what_to_jsonb_makes_of_them,
    types_of_the_customer_are_what_to_jsonb_makes_of_them,
    generated_texts_come_through_arrays_and_rows,
    documents_are_what_jsonb_makes_of_them,
    generated_documents_are_what_jsonb_makes_of_them,
    nesting_ends_behind_where_postgresql_ends,
    values_that_only_postgresql_knows_are_asked,
    one_bad_value_costs_no_other,
    types_are_read_again_when_they_change,
    recorded_values_look_as_they_were_recorded,
];

/// A database, a connection like the server's, and what is known of types.
struct World {
    connection: Connection,
    types: Types,
    /// Its cluster stays as long as it does.
    _database: Database,
}

impl World {
    async fn new(cluster: &Arc<Cluster>) -> Self {
        let database = cluster.database(Kind::Empty);
        let connection = connect(&database.settings(), "realtime_rls").await;
        Self {
            connection: connection.expect("PostgreSQL runs"),
            types: Types::new(),
            _database: database,
        }
    }

    async fn run(&self, sql: &str) {
        let done = self.connection.client.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{}: {sql}", describe(&error)));
    }

    /// Compares all values of a query's column `v`, which may use texts, and returns how many there are.
    async fn compare(&self, query: &str, texts: &[String]) -> usize {
        // The output function, which is not always the cast to text; the quirks of wal2json; our own form.
        let query = format!(
            "select pg_catalog.format('%s', v), to_jsonb(v)::text, pg_typeof(v)::oid, v is null from ({query}) q
             where coalesce(cardinality($1::text[]), 0) >= 0"
        );
        let rows = self.connection.client.query(&query, &[&texts]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{}: {query}", describe(&error)));
        let mut differences = Vec::new();
        for row in &rows {
            let (text, expected, oid): (String, Option<String>, u32) =
                (row.get(0), row.get(1), row.get(2));
            let Some(expected) = expected else { continue };
            let is_null: bool = row.get(3);
            // Rows of NULLs alone are `is null` as well, but print something.
            if is_null && text.is_empty() {
                continue;
            }
            self.types
                .load(&self.connection.client, &[oid])
                .await
                .expect("types can be read");
            let of = self.types.get(oid).expect("it was loaded");
            let expected = match &of.kind {
                TypeKind::Bytea => expected.replacen("\\\\x", "", 1),
                TypeKind::Numeric | TypeKind::Real | TypeKind::Double
                    if expected.starts_with('"') =>
                {
                    "null".to_owned()
                }
                _ => expected,
            };
            if json(&of, &text).as_ref() != Ok(&expected) {
                differences.push(format!(
                    "{} {text}\n  expected {expected}\n  written  {:?}",
                    of.name,
                    json(&of, &text)
                ));
            }
        }
        assert!(
            differences.is_empty(),
            "{} of {}:\n{}",
            differences.len(),
            rows.len(),
            differences.join("\n")
        );
        rows.len()
    }

    /// Compares these literals of a type.
    async fn literals(&self, of: &str, literals: &[&str]) {
        let texts: Vec<String> = literals.iter().map(|&text| text.to_owned()).collect();
        let count = self
            .compare(
                &format!("select x::{of} as v from unnest($1::text[]) x"),
                &texts,
            )
            .await;
        assert_eq!(count, literals.len(), "{of}");
    }
}

fn json(of: &Type, text: &str) -> Result<String, Malformed> {
    let mut out = Vec::new();
    of.write_json(&mut out, text)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

async fn built_in_types_are_as_the_catalog_has_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let query = "select t.oid, t.typname::text, t.typsubscript = 'array_subscript_handler'::regproc, t.typelem, coalesce(e.typdelim, ',')
        from pg_type t left join pg_type e on e.oid = t.typelem where t.oid < 16384 and t.typtype not in ('p', 'c')";
    let rows = world
        .client
        .query(query, &[])
        .await
        .expect("it can be read");
    let (mut simple, mut arrays) = (0, 0);
    let oids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    world
        .types
        .load(&world.connection.client, &oids)
        .await
        .expect("types can be read");
    for row in &rows {
        let (name, is_array, element): (String, bool, u32) = (row.get(1), row.get(2), row.get(3));
        let of = world.types.get(row.get(0)).expect("it was loaded");
        assert_eq!(&*of.name, name);
        assert!(!of.needs_asking(), "{name}");
        match &of.kind {
            TypeKind::Array {
                element: found,
                delimiter,
            } => {
                assert!(is_array && found.oid == element, "{name}");
                assert_eq!(*delimiter, char::from(row.get::<_, i8>(4) as u8), "{name}");
                arrays += 1;
            }
            TypeKind::Vector(found) => assert!(is_array && found.oid == element, "{name}"),
            _ => {
                assert!(!is_array, "{name}");
                simple += 1;
            }
        }
    }
    assert!(simple > 60 && arrays > 60, "{simple} and {arrays}");
}

/// Types that are written by themselves, each with values of every look.
const SIMPLE: &[(&str, &[&str])] = &[
    ("bool", &["t", "f"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    (
        "float4",
        &[
            "1.1",
            "-0",
            "0",
            "3.4028235e38",
            "-3.4028235e38",
            "1.17549435e-38",
            "1e-45",
            "16777216",
            "1e6",
            "1e7",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
    ),
    (
        "float8",
        &[
            "0.1",
            "-0",
            "1e300",
            "1e-300",
            "1.7976931348623157e308",
            "2.2250738585072014e-308",
            "5e-324",
            "123456.789",
            "1e15",
            "1e16",
            "123456789012345678",
            "1e-4",
            "1e-5",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
    ),
    (
        "numeric",
        &[
            "0",
            "0.000",
            "1.50",
            "-1.50",
            "1e3",
            "1e-7",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e131071",
            "1e-16383",
            "-0.0",
            "1234567890123456789012345678901234567890.1234567890123456789012345678901234567890123456789012345678901234567890",
        ],
    ),
    ("numeric(10,3)", &["1", "-1.5"]),
    (
        "text",
        &[
            "",
            "plain",
            "q\"uo'te \\ \n\t\r\u{8}\u{c}",
            "\u{1}\u{1f}\u{7f}\u{80}",
            "ünï 😀 中 \u{2028}",
            "NULL",
            "{}",
            "</script>",
        ],
    ),
    ("varchar(10)", &["abc", ""]),
    ("char(4)", &["ab", "abcd", ""]),
    ("\"char\"", &["a", "\"", "\\", "\\351"]),
    ("name", &["nm", "a\"b"]),
    ("bytea", &["\\x", "\\xdeadbeef00"]),
    ("bit(4)", &["1010"]),
    ("varbit", &["", "10110"]),
    (
        "date",
        &[
            "2024-02-29",
            "infinity",
            "-infinity",
            "0044-03-15 BC",
            "5874897-12-31",
            "4713-01-01 BC",
        ],
    ),
    (
        "time",
        &["00:00", "24:00:00", "12:34:56.123456", "12:34:56.1"],
    ),
    (
        "timetz",
        &["12:34:56.1+02", "00:00+05:30", "00:00-15:59:59"],
    ),
    (
        "timestamp",
        &[
            "2024-02-29 12:34:56.123456",
            "2024-01-01",
            "2024-01-01 00:00:00.1",
            "infinity",
            "-infinity",
            "0044-03-15 12:00 BC",
            "294276-12-31 23:59:59.999999",
            "4714-11-24 BC",
            "0001-01-01",
        ],
    ),
    (
        "timestamptz",
        &[
            "2024-02-29 12:34:56.1+02",
            "2024-07-01 00:00Z",
            "infinity",
            "-infinity",
            "0044-03-15 12:00+00 BC",
            "294276-12-31 23:59:59.999999Z",
            "4714-11-24 00:00Z BC",
        ],
    ),
    (
        "interval",
        &[
            "1 year 2 mons 3 days 04:05:06.7",
            "-1 day",
            "0",
            "36 hours",
            "-1 mon +2 days -00:00:00.000001",
            "178000000 years",
        ],
    ),
    ("money", &["12.34", "-1234567.89", "0"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    (
        "inet",
        &["192.168.0.1/24", "192.168.0.1", "::1", "2001:db8::/32"],
    ),
    ("cidr", &["10.0.0.0/8", "10.1.2.3"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("xml", &["<a b=\"c\">é &amp; \n</a>", "text"]),
    ("tsvector", &["a fat cat", "'it''s':1A,2 b\\\\c:3"]),
    ("tsquery", &["fat & (rat | cat) & !'x y'"]),
    ("pg_lsn", &["16/B374D848", "0/0"]),
    ("txid_snapshot", &["10:20:10,14,15"]),
    ("oid", &["0", "4294967295"]),
    ("regclass", &["pg_class", "4294967295"]),
    ("regtype", &["integer", "\"char\"", "int4[]"]),
    ("int2vector", &["", "1", "1 -2 3"]),
    ("oidvector", &["", "1 4294967295"]),
    ("tid", &["(0,1)"]),
    ("xid", &["7"]),
    ("jsonpath", &["$.\"a b\"[*] ? (@ > 1)"]),
    ("point", &["(1,2.5)", "(1e300,-0)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)"]),
    ("path", &["((0,0),(1,1))", "[(0,0),(1,1)]"]),
    ("polygon", &["((0,0),(1,1),(2,0))"]),
    ("circle", &["<(1,2),3>"]),
    ("int4range", &["[1,5)", "empty", "(,)"]),
    ("numrange", &["[1.50,2.0]"]),
    ("tstzrange", &["[2024-01-01 00:00+00,)"]),
    ("daterange", &["[2024-01-01,2024-01-03]"]),
    ("int4multirange", &["{[1,3),[5,7)}", "{}"]),
    ("tsmultirange", &["{[2024-01-01,2024-01-02)}"]),
];

async fn simple_values_are_what_to_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    for (of, literals) in SIMPLE {
        world.literals(of, literals).await;
        // The same in arrays, with NULL beside it, and in a row of a table.
        let base = of.split('(').next().expect("it has a name");
        let texts: Vec<String> = literals.iter().map(|&text| text.to_owned()).collect();
        if !base.ends_with("vector") || base == "tsvector" {
            let query =
                format!("select array[x::{of}, null, x::{of}] as v from unnest($1::text[]) x");
            world.compare(&query, &texts).await;
        }
        world
            .run(&format!(
                "create table holder (before int, v {of}, \"after\" text)"
            ))
            .await;
        let query = format!("select row(1, x::{of}, null)::holder as v from unnest($1::text[]) x");
        world.compare(&query, &texts).await;
        world.run("drop table holder").await;
        world.types.clear();
    }
}

async fn generated_numbers_are_what_to_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run("set extra_float_digits = 1; select setseed(0.25)")
        .await;
    let series = "from generate_series(1, 3000)";
    for value in [
        "((random() - 0.5) * 10 ^ (random() * 620 - 312))::float8",
        "((random() - 0.5) * 10 ^ (random() * 30 - 15))::float8",
        "round((random() - 0.5) * 10 ^ (random() * 20))::float8",
        "((random() - 0.5) * 10 ^ (random() * 74 - 36))::float4",
        "((random() - 0.5) * 10 ^ (random() * 12 - 6))::float4",
        "round(((random() - 0.5) * 10 ^ (random() * 60 - 30))::numeric, (random() * 40)::int)",
        "((random() - 0.5) * 9.2e18)::int8",
        "array[(random() * 10 ^ (random() * 600 - 300))::float8, -random(), null]",
    ] {
        assert_eq!(
            world
                .compare(&format!("select {value} as v {series}"), &[])
                .await,
            3000
        );
    }
}

async fn generated_moments_are_what_to_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.run("select setseed(0.75)").await;
    let moment = "'2000-01-01'::timestamp + (random() - 0.5) * interval '12000 years'";
    for value in [
        moment.to_owned(),
        format!("({moment})::timestamptz"),
        format!("({moment})::timestamptz(2)"),
        format!("({moment})::timestamp(0)"),
        format!("({moment})::date"),
        format!("({moment})::time"),
        format!("({moment})::timestamptz::timetz"),
        format!("justify_interval(({moment}) - '2024-01-01')"),
        format!("tsrange({moment}, null)"),
    ] {
        let query = format!("select {value} as v from generate_series(1, 1500)");
        assert_eq!(world.compare(&query, &[]).await, 1500);
    }
    // A database's own zone does not count for the server's connections, but nothing here relies on that.
    for zone in ["America/St_Johns", "Asia/Kolkata", "Europe/Paris"] {
        world.run(&format!("set timezone = '{zone}'")).await;
        let query = format!("select ({moment})::timestamptz as v from generate_series(1, 1500)");
        assert_eq!(world.compare(&query, &[]).await, 1500);
    }
}

async fn arrays_are_what_to_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    for (of, literals) in [
        (
            "int4[]",
            &[
                "{}",
                "{1,null,3}",
                "{{1,2},{3,4}}",
                "[0:1]={1,2}",
                "[-1:0][5:6]={{1,2},{3,4}}",
                "{{{{{{1}}}}}}",
                "{NULL}",
            ][..],
        ),
        ("int8[3]", &["{1,2,3}", "{9223372036854775807}"]),
        (
            "text[]",
            &[
                "{}",
                r#"{"a,b","c\"d",null,"","NULL","null","\\","{","}"," ","a b","\n",é}"#,
                r#"{{"{}"},{"\"\\\""}}"#,
                "{\"\t\",\"'\",;}",
                r"{\a\b}",
                "{NULLx,xNULL}",
            ],
        ),
        ("varchar(3)[]", &["{abc,\"\"}"]),
        ("char(3)[]", &["{a,b}"]),
        ("bytea[]", &[r#"{"\\x01","\\x",NULL}"#]),
        ("bool[]", &["{t,f,null}"]),
        ("float8[]", &["{NaN,Infinity,-Infinity,-0,1e300,1.5}"]),
        ("numeric(6,2)[]", &["{1.5,2}"]),
        ("timestamptz[]", &["{2024-01-01 00:00Z,infinity}"]),
        ("timestamp[]", &["{2024-01-01 00:00,0044-03-15 BC}"]),
        (
            "json[]",
            &[r#"{"{\"b\":1, \"a\":[1e2], \"b\":\"\\\\\\\"\"}",null,"null"}"#],
        ),
        ("jsonb[]", &[r#"{"{\"a\": \"x\\\\y\"}","[]",1}"#]),
        (
            "box[]",
            &["{(1,1),(0,0);(2,2),(1,1)}", "{NULL;(1,1),(0,0)}", "{}"],
        ),
        ("point[]", &[r#"{"(1,2)","(3,4)"}"#]),
        ("interval[]", &[r#"{"1 day 02:00:00",00:00:01}"#]),
        ("int4range[]", &[r#"{"[1,2)",empty}"#]),
        ("xml[]", &["{\"<a b='\\\"'/>\"}"]),
        ("\"char\"[]", &["{a,\"\\\"\",\" \"}"]),
        ("int2vector[]", &["{1 2,3}"]),
        ("uuid[]", &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"]),
    ] {
        world.literals(of, literals).await;
    }
}

async fn types_of_the_customer_are_what_to_jsonb_makes_of_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run(
            r#"create schema "My Schema";
            create type "My Schema"."Mood" as enum ('sad', 'very "happy"', 'so, so', '');
            create domain posint as int check (value > 0);
            create domain posint2 as posint not null;
            create domain ints as int[];
            create domain texts as text[] check (cardinality(value) < 10);
            create domain doc as json;
            create domain day as timestamptz;
            create domain c3 as char(3);
            create domain bytes as bytea;
            create domain num as float8;
            create domain boxes as box;
            create type nothing as ();
            create type one as (a text);
            create type comp as ("A b" int, dropped int, "q""uo\te" text, é date, m "My Schema"."Mood", aa posint2, a json);
            alter type comp drop attribute dropped;
            create domain comp_domain as comp;
            create type outer_comp as (c comp, cs comp[], d comp_domain, ds comp_domain[], t texts[], n nothing, o one);
            create type floats as range (subtype = float8);
            create table people (id int primary key, gone text, name text, tags text[]);
            alter table people drop column gone;
            create view seen as select id, name from people"#,
        )
        .await;
    for (of, literals) in [
        (
            r#""My Schema"."Mood""#,
            &["sad", "very \"happy\"", "so, so", ""][..],
        ),
        (
            r#""My Schema"."Mood"[]"#,
            &["{sad,\"very \\\"happy\\\"\",\"so, so\",\"\",null}"],
        ),
        ("posint", &["7"]),
        ("posint2", &["7"]),
        ("posint2[]", &["{7,8}"]),
        ("ints", &["{1,null}", "{{1},{2}}"]),
        ("ints[]", &[r#"{"{1,2}","{{3},{4}}",null}"#]),
        ("texts", &[r#"{"a,b"}"#]),
        ("texts[]", &[r#"{"{\"a,b\",\"\\\"\"}"}"#]),
        ("doc", &["{\"b\":1,\"a\":1e2}"]),
        ("day", &["2024-01-01 00:00Z"]),
        ("c3", &["a", "abc"]),
        ("bytes", &["\\xde"]),
        ("bytes[]", &[r#"{"\\xde"}"#]),
        ("num", &["NaN", "1e20", "-0"]),
        ("boxes[]", &["{(1,1),(0,0);(2,2),(1,1)}"]),
        ("nothing", &["()"]),
        ("nothing[]", &["{()}"]),
        ("one", &["()", "(\"\")", "(x)", "(\"(\")", "(\" \")"]),
        (
            "comp",
            &[
                "(,,,,1,)",
                r#"(1,"a ""b\\c",2024-01-01,"very ""happy""",2,"{""x"":1}")"#,
                r#"(1,"",0044-03-15 BC,,3,null)"#,
            ],
        ),
        (
            "comp[]",
            &[r#"{"(1,\"x, \\\"\\\"y\\\\\\\\\",,sad,1,)",null}"#],
        ),
        ("comp_domain", &["(1,x,,,1,)"]),
        (
            "outer_comp",
            &[
                "(,,,,,,)",
                r#"("(1,x,,,1,)","{""(1,\\""x y\\"",,,1,)"",NULL}","(1,x,,,1,)","{""(1,x,,,1,)""}","{""{a,b}""}","()","(a)")"#,
            ],
        ),
        (
            "outer_comp[]",
            &[r#"{"(,\"{\\\"(1,\\\\\\\"x \\\\\\\\\\\\\\\\ y\\\\\\\",,,1,)\\\"}\",,,,,)"}"#],
        ),
        ("floats", &["[1.5,2.5)"]),
        ("floats[]", &["{\"[1.5,2.5)\"}"]),
        ("people", &["(1,\"x y\",\"{a,\"\"b c\"\"}\")"]),
        ("people[]", &["{\"(1,,)\"}"]),
        ("seen", &["(1,x)"]),
    ] {
        world.literals(of, literals).await;
    }
}

/// Numbers that come the same way each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A few characters that mean something to somebody.
    fn text(&mut self) -> String {
        let pieces = [
            "a", "b", " ", ",", ";", "\"", "\\", "{", "}", "(", ")", "[", "]", "'", "NULL", "é",
            "😀", "\n", "\t", "\u{1}", "=", "x",
        ];
        (0..self.below(6)).map(|_| self.one(&pieces)).collect()
    }
}

async fn generated_texts_come_through_arrays_and_rows(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run(
            "create type pair as (a text, b text);
            create type tree as (pairs pair[], word text, words text[]);
            create domain word as text;
            create domain words as text[]",
        )
        .await;
    let mut dice = Dice(0x5eed);
    let texts: Vec<String> = (0..2000).map(|_| dice.text()).collect();
    let neighbours = "from (select x, lead(x) over (order by n) y, nullif(x, '') z from unnest($1::text[]) with ordinality u(x, n)) t";
    for value in [
        "x",
        "array[x, y, z]",
        "array[[x, y], [y, z]]",
        "array[x::word, y]::word[]",
        "array[array[x, y]::words, array[z]::words]",
        "row(x, y)::pair",
        "row(z, null)::pair",
        "array[row(x, y)::pair, row(y, z)::pair, null]",
        "row(array[row(x, y)::pair, row(z, x)::pair], y, array[x, z])::tree",
        "array[row(array[row(x, y)::pair], y, array[x, z])::tree]",
        "array[to_json(x), json_build_object(y, x)]",
        "array[to_jsonb(x), jsonb_build_array(y, x)]",
    ] {
        assert_eq!(
            world
                .compare(&format!("select {value} as v {neighbours}"), &texts)
                .await,
            2000,
            "{value}"
        );
    }
}

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
            .client
            .query_one("select $1::text::json::text", &[&text])
            .await;
        assert_eq!(document.expect("json takes it").get::<_, String>(0), text);
        let refused = world
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

async fn values_that_only_postgresql_knows_are_asked(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run(
            "create extension hstore; create extension citext;
            create domain tags as hstore;
            create type tagged as (id int, tags hstore);
            create type shade as enum ('light', 'dark');
            create function shade_json(shade) returns json language sql immutable as $$ select json_build_object('shade', $1::text) $$;
            create cast (shade as json) with function shade_json(shade);
            create type tone as enum ('high', 'low');
            create cast (tone as json) with inout;
            create type odd as enum ('a');
            create function odd_jsonb(odd) returns jsonb language sql immutable as $$ select '1'::jsonb $$;
            create cast (odd as jsonb) with function odd_jsonb(odd)",
        )
        .await;
    for (of, literal) in [
        ("hstore", r#"a=>1, "b c"=>NULL, "q\""=>"x""#),
        ("hstore[]", r#"{"a=>1",null}"#),
        ("tags", "a=>1"),
        ("tagged", "(1,\"a=>1\")"),
        ("tagged[]", "{\"(1,a=>1)\"}"),
        ("shade", "dark"),
        ("shade[]", "{light,dark}"),
    ] {
        let query = format!(
            "select format('%s', $1::text::{of}), to_jsonb($1::text::{of})::text, '{of}'::regtype::oid"
        );
        let row = world
            .client
            .query_one(&query, &[&literal])
            .await
            .expect("it can be read");
        let (text, expected, oid): (String, String, u32) = (row.get(0), row.get(1), row.get(2));
        world
            .types
            .load(&world.connection.client, &[oid])
            .await
            .expect("types can be read");
        let of = world.types.get(oid).expect("it was loaded");
        assert!(of.needs_asking(), "{}", of.name);
        assert_eq!(json(&of, &text), Err(Malformed));
        let answers = ask_json(&world.connection.client, &[(&of, vec![&text, &text])])
            .await
            .expect("it can be asked");
        let expected = Some(expected.into_boxed_str());
        assert_eq!(answers, [vec![expected.clone(), expected]], "{}", of.name);
    }
    // Casts without a function, and those to jsonb, do not count.
    for (of, literal) in [
        ("citext", "Ab\"c"),
        ("citext[]", "{Ab,\"\\\"\"}"),
        ("tone", "high"),
        ("odd", "a"),
    ] {
        world.literals(of, &[literal]).await;
    }
}

async fn one_bad_value_costs_no_other(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run(
            "create type level as enum ('1', '2', 'bad');
            create function level_json(level) returns json language sql immutable as $$ select to_json($1::text::int) $$;
            create cast (level as json) with function level_json(level)",
        )
        .await;
    let row = world
        .client
        .query_one("select 'level'::regtype::oid", &[])
        .await
        .expect("it is there");
    let oid: u32 = row.get(0);
    world
        .types
        .load(&world.connection.client, &[oid])
        .await
        .expect("types can be read");
    let of = world.types.get(oid).expect("it was loaded");
    let texts = ["1", "2", "bad", "1", "no such level", "2", "2"];
    let answers = ask_json(
        &world.connection.client,
        &[(&of, texts.to_vec()), (&of, vec![]), (&of, vec!["2"])],
    )
    .await;
    let answers = answers.expect("it can be asked");
    let shown: Vec<Vec<Option<&str>>> = answers
        .iter()
        .map(|of| of.iter().map(Option::as_deref).collect())
        .collect();
    assert_eq!(
        shown,
        [
            vec![
                Some("1"),
                Some("2"),
                None,
                Some("1"),
                None,
                Some("2"),
                Some("2")
            ],
            vec![],
            vec![Some("2")]
        ]
    );
    world.run("set statement_timeout = '100ms'; create or replace function level_json(level) returns json language plpgsql as
        $$ begin perform pg_sleep(60); return '1'; end $$").await;
    let answers = ask_json(&world.connection.client, &[(&of, vec!["1", "2"])]).await;
    let error = answers.expect_err("it takes too long, however few are asked at once");
    assert_eq!(
        error.code().map(|code| code.code().to_owned()).as_deref(),
        Some("57014")
    );
}

async fn types_are_read_again_when_they_change(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run(
            "create type inner_comp as (a int);
            create domain positive as int check (value > 0);
            create table t (id int primary key, c inner_comp, cs inner_comp[], p positive, m numeric(5,2), gone text);
            alter table t drop column gone",
        )
        .await;
    let query = "select atttypid from pg_attribute where attrelid = 't'::regclass and attnum > 0 and not attisdropped order by attnum";
    let columns = world
        .client
        .query(query, &[])
        .await
        .expect("it can be read");
    let oids: Vec<u32> = columns.iter().map(|row| row.get(0)).collect();
    assert!(world.types.get(oids[1]).is_none());
    world
        .types
        .load(&world.connection.client, &oids)
        .await
        .expect("types can be read");
    let names: Vec<String> = oids
        .iter()
        .map(|oid| {
            world
                .types
                .get(*oid)
                .expect("it was loaded")
                .name
                .to_string()
        })
        .collect();
    assert_eq!(
        names,
        ["int4", "inner_comp", "_inner_comp", "positive", "numeric"]
    );
    let of = |index: usize| world.types.get(oids[index]);
    assert_eq!(
        of(1).expect("it is known").sql_name(),
        r#""public"."inner_comp""#
    );

    let before = of(2).expect("it is known");
    assert_eq!(json(&before, "{(1)}").as_deref(), Ok(r#"[{"a": 1}]"#));
    world.run("alter type inner_comp add attribute b text; alter type inner_comp rename attribute a to z").await;
    assert_eq!(
        json(&before, "{\"(1,x)\"}"),
        Err(Malformed),
        "it was another type"
    );
    world.types.forget(oids[1]);
    assert!(
        of(1).is_none() && of(2).is_none() && of(3).is_some(),
        "what it stood in is forgotten as well, nothing else"
    );
    world
        .types
        .load(&world.connection.client, &oids)
        .await
        .expect("types can be read");
    assert_eq!(
        json(&of(2).expect("it is known"), "{\"(1,x)\"}").as_deref(),
        Ok(r#"[{"b": "x", "z": 1}]"#)
    );

    world
        .run("alter type inner_comp rename attribute z to y")
        .await;
    world
        .types
        .refresh(&world.connection.client)
        .await
        .expect("types can be read");
    assert_eq!(
        json(&of(1).expect("it is known"), "(1,x)").as_deref(),
        Ok(r#"{"b": "x", "y": 1}"#)
    );

    // A number that no type has.
    world
        .types
        .load(&world.connection.client, &[4_000_000_000])
        .await
        .expect("types can be read");
    assert!(world.types.get(4_000_000_000).is_none());
    world.types.clear();
    assert!(of(1).is_none() && of(0).is_some());
}

/// What was recorded of the original, apart from `bit(n)`, which is not cut here.
async fn recorded_values_look_as_they_were_recorded(cluster: Arc<Cluster>) {
    let vectors: Vec<Value> = serde_json::from_str(include_str!(
        "../conformance/vectors/postgres-changes/types.json"
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
