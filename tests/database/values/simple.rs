//! Values that hold no others.

use std::sync::Arc;

use realtime::control::changes::types::Kind as TypeKind;

use super::World;
use crate::postgres::Cluster;

tests![
    built_in_types_are_as_the_catalog_has_them,
    simple_values_are_what_to_jsonb_makes_of_them,
    generated_numbers_are_what_to_jsonb_makes_of_them,
    generated_moments_are_what_to_jsonb_makes_of_them,
];

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
    ("regclass", &["pg_class", "pg_catalog.pg_type"]),
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

async fn built_in_types_are_as_the_catalog_has_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let query = "select t.oid, t.typname::text, t.typsubscript = 'array_subscript_handler'::regproc, t.typelem, coalesce(e.typdelim, ',')
        from pg_type t left join pg_type e on e.oid = t.typelem where t.oid < 16384 and t.typtype not in ('p', 'c')";
    let rows = world
        .connection
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
