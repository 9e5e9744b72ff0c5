//! Arrays, rows and domains, and what is known of them.

use std::sync::Arc;

use realtime::control::changes::types::Malformed;

use super::{Dice, World, json};
use crate::postgres::Cluster;

tests![
    arrays_are_what_to_jsonb_makes_of_them,
    types_of_the_customer_are_what_to_jsonb_makes_of_them,
    generated_texts_come_through_arrays_and_rows,
    types_are_read_again_when_they_change,
    what_is_loaded_during_a_refresh_stays,
];

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
        "array[to_json(x), json_build_object(coalesce(y, ''), x)]",
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
        .connection
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
}

async fn what_is_loaded_during_a_refresh_stays(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world
        .run("create type mood as enum ('sad'); create type shade as enum ('dark')")
        .await;
    let client = &world.connection.client;
    let row = client
        .query_one("select 'mood'::regtype::oid, 'shade'::regtype::oid", &[])
        .await
        .expect("they are there");
    let [first, second]: [u32; 2] = [row.get(0), row.get(1)];
    world
        .types
        .load(client, &[first])
        .await
        .expect("types can be read");
    // The answer to the refresh comes behind that to the load.
    let loaded = [second];
    let (loaded, refreshed) = tokio::join!(
        biased;
        world.types.load(client, &loaded),
        world.types.refresh(client),
    );
    loaded.and(refreshed).expect("types can be read");
    assert!(world.types.get(first).is_some() && world.types.get(second).is_some());
}
