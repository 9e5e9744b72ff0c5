//! Questions to PostgreSQL: batches, what is asked once, and errors that stay where they belong.

use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::Operator;
use realtime::control::changes::filter::ask;

use super::{checked, connected, text};
use crate::postgres::{Cluster, Kind};
use crate::turns;

tests![
    an_error_is_of_one_value_alone,
    a_slow_filter_takes_no_answers_from_others,
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
