//! Questions to PostgreSQL: batches, what is asked once, and errors that stay where they belong.

use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::Operator;
use realtime::control::changes::filter::Asker;
use realtime::control::clock;
use realtime::limits;

use super::{checked, connected, text};
use crate::postgres::{Cluster, Kind};
use crate::turns;

tests![
    an_error_is_of_one_value_alone,
    a_slow_filter_takes_no_answers_from_others,
    a_slow_filter_costs_others_nothing_twice,
    equal_questions_are_asked_once,
];

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
    let asker = Asker::default();
    let said = asker
        .ask(client, &questions)
        .await
        .expect("it is the value's error alone");
    assert_eq!(said.unknown, 3);
    let answers = said.passed;
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
    let values = boxed(&["(x)", "(0)", "nonsense"]);
    let said = asker
        .ask(client, &[(Rc::clone(&filters[2]), values)])
        .await
        .expect("it is the value's error alone");
    assert_eq!(said.passed, [[false, true, false]]);
    assert_eq!(said.unknown, 2);
    // And the connection's errors are nobody's answer.
    let backend: i32 = client
        .query_one("select pg_backend_pid()", &[])
        .await
        .expect("it answers")
        .get(0);
    database.sql(&format!("select pg_terminate_backend({backend}, 5000)"));
    assert!(asker.ask(client, &questions).await.is_err());
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
    let asker = Asker::default();
    let said = asker.ask(client, &questions).await;
    let answers = said.expect("PostgreSQL runs").passed;
    for (filter, answers) in filters.iter().zip(answers) {
        let is_slow = format!("{filter:?}").contains("One(\"(7)\")");
        assert_eq!(answers, [!is_slow, !is_slow], "{filter:?}");
    }
}

async fn a_slow_filter_costs_others_nothing_twice(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(
        "create type odd as (x int);
         create function odd_lt(odd, odd) returns boolean language plpgsql as
           $$ begin if $1.x = 1011 and $2.x < 100 then perform pg_sleep(60); end if; return true; end $$;
         create operator < (leftarg = odd, rightarg = odd, function = odd_lt);
         create table t (o odd, s text);
         grant select on t to anon",
    );
    let connection = connected(&database).await;
    let client = &connection.client;
    // More filters than there is time for, and some that are quick.
    let mut list: Vec<_> = (0..40)
        .map(|x| text("o", Operator::Lt, false, &format!("({x})")))
        .collect();
    list.extend((200..210).map(|x| text("o", Operator::Lt, false, &format!("({x})"))));
    list.push(text("s", Operator::Like, false, "%x"));
    let filters = checked(client, list).await;
    let values = boxed(&["(1)", "(1011)"]);
    let questions: Vec<_> = filters
        .iter()
        .map(|filter| {
            let is_text = format!("{filter:?}").contains("%x");
            let values = if is_text {
                boxed(&["ax", "x"])
            } else {
                values.clone()
            };
            (Rc::clone(filter), values)
        })
        .collect();
    let is_slow = |place: usize| {
        let shown = format!("{:?}", filters[place]);
        (0..40).any(|x| shown.contains(&format!("One(\"({x})\")")))
    };
    let asker = Asker::default();
    let (mut lasted, mut is_over) = (Vec::new(), false);
    for _ in 0..10 {
        let began = clock::now();
        let said = asker.ask(client, &questions).await;
        let said = said.expect("PostgreSQL runs");
        lasted.push(clock::now().duration_since(began));
        let unknown = said.passed.iter().flatten().filter(|passes| !**passes);
        assert_eq!(said.unknown, unknown.count() as u64);
        let whole = |place: usize| said.passed[place] == [true, true];
        assert!((0..filters.len()).all(|place| !(is_slow(place) && whole(place))));
        is_over = (0..filters.len()).all(|place| is_slow(place) || whole(place));
        if is_over && lasted[lasted.len() - 1] < limits::FILTER_SLOW_TIMEOUT * 2 {
            assert_eq!(said.unknown, 80);
            break;
        }
    }
    assert!(
        is_over,
        "others lose their answers again and again: {lasted:?}"
    );
    assert!(
        lasted[lasted.len() - 1] < limits::FILTER_SLOW_TIMEOUT * 2,
        "{lasted:?}"
    );
    let longest = lasted.iter().max().expect("it was asked");
    let bound = limits::FILTER_ASK_TIMEOUT + limits::FILTER_SLOW_TIMEOUT;
    assert!(
        *longest < bound + limits::FILTER_STATEMENT_TIMEOUT,
        "{lasted:?}"
    );
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
    let said = Asker::default().ask(&turning, &questions).await;
    let said = said.expect("PostgreSQL runs");
    assert_eq!(said.unknown, 0);
    let answers = said.passed;
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
