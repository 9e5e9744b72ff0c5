//! Values whose JSON only the database knows.

use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::types::{Converter, Malformed, Type};
use realtime::control::clock;
use realtime::limits;

use super::{World, json};
use crate::postgres::Cluster;
use crate::world::advance;

tests![
    values_that_only_postgresql_knows_are_asked,
    one_bad_value_costs_no_other,
    casts_that_never_end_end,
    casts_that_take_long_hold_up_one_batch,
];

/// A type of the database.
async fn loaded(world: &World, name: &str) -> Rc<Type> {
    let client = &world.connection.client;
    let row = client
        .query_one("select $1::text::regtype::oid", &[&name])
        .await
        .expect("it is there");
    let oid: u32 = row.get(0);
    let read = world.types.load(client, &[oid]).await;
    read.expect("types can be read");
    world.types.get(oid).expect("it was loaded")
}

/// An enum of this name whose value `slow` takes a minute to convert, and whose value `bad` cannot be.
fn slow_type(name: &str) -> String {
    format!(
        "create type {name} as enum ('1', '2', 'slow', 'bad');
         create function {name}_json({name}) returns json language plpgsql as $$ begin
             if $1 = 'slow' then perform pg_sleep(60); end if; return to_json($1::text::int); end $$;
         create cast ({name} as json) with function {name}_json({name});"
    )
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
            .connection
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
        let answers = Converter::default()
            .ask(&world.connection.client, &[(&of, vec![&text, &text])])
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
    let of = loaded(&world, "level").await;
    let texts = ["1", "2", "bad", "1", "no such level", "2", "2"];
    let questions = [(&*of, texts.to_vec()), (&of, vec![]), (&of, vec!["2"])];
    let answers = Converter::default()
        .ask(&world.connection.client, &questions)
        .await
        .expect("it can be asked");
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
}

async fn casts_that_never_end_end(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.run(&slow_type("level")).await;
    let client = &world.connection.client;
    let of = loaded(&world, "level").await;
    // One of many takes long: the others, and those of other types, are answered.
    let mut texts = vec!["1"; 300];
    texts[77] = "slow";
    texts[250] = "bad";
    let questions = [(&*of, texts.clone()), (&*of, vec!["2"])];
    let answers = Converter::default().ask(client, &questions).await;
    let answers = answers.expect("it can be asked");
    for (place, answer) in answers[0].iter().enumerate() {
        let expected = (!matches!(place, 77 | 250)).then_some("1");
        assert_eq!(answer.as_deref(), expected, "{place}");
    }
    assert_eq!(answers[1][0].as_deref(), Some("2"));
    // All of them do: there is an end, and the connection is of use behind it.
    let began = clock::now();
    let converter = Converter::default();
    let answers = converter.ask(client, &[(&of, vec!["slow"; 300])]).await;
    assert!(
        answers.expect("it can be asked")[0]
            .iter()
            .all(Option::is_none)
    );
    let took = clock::now().duration_since(began);
    assert!(took < limits::CHANGES_QUESTION_TIMEOUT / 2, "{took:?}");
    let answers = converter.ask(client, &[(&of, vec!["2"])]).await;
    assert_eq!(
        answers.expect("it can be asked")[0][0].as_deref(),
        Some("2")
    );
    let text = client.query_one("show statement_timeout", &[]).await;
    assert_eq!(text.expect("it answers").get::<_, &str>(0), "0");
}

async fn casts_that_take_long_hold_up_one_batch(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    for name in ["level", "grade"] {
        world.run(&slow_type(name)).await;
    }
    let (level, grade) = (loaded(&world, "level").await, loaded(&world, "grade").await);
    let converter = Converter::default();
    let ask = async |first: &'static str| {
        let questions = [(&*level, vec![first, "1"]), (&*grade, vec!["1", "2"])];
        let began = clock::now();
        let answers = converter.ask(&world.connection.client, &questions).await;
        let took = clock::now().duration_since(began);
        let answers = answers.expect("it can be asked");
        let shown = |answer: &Option<Box<str>>| answer.as_deref().unwrap_or("-").to_owned();
        let shown: Vec<String> = answers.iter().flatten().map(shown).collect();
        (shown.join(" "), took)
    };
    let statement = limits::CHANGE_VALUES_STATEMENT_TIMEOUT;
    let (seen, took) = ask("slow").await;
    assert_eq!(seen, "- 1 1 2");
    assert!(took >= statement, "{took:?}");
    // Its quick values are found, and so are those of others.
    for _ in 0..3 {
        let (seen, took) = ask("slow").await;
        assert_eq!(seen, "- 1 1 2");
        assert!(took < statement, "{took:?}");
    }
    assert_eq!(ask("2").await.0, "2 1 1 2");
    assert!(
        ask("slow").await.1 < statement,
        "one good batch is no proof"
    );
    // It is not known for ever.
    advance(limits::CHANGE_VALUES_SLOW_LIFETIME).await;
    let (seen, took) = ask("slow").await;
    assert_eq!(seen, "- 1 1 2");
    assert!(took >= statement, "{took:?}");
}
