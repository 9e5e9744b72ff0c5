//! What a client is told of an error of its tenant's database, said by a real one.

use std::sync::Arc;

use realtime::control::changes::wish::exception_text;

use crate::postgres::{Cluster, Kind};

tests![errors_are_told_with_all_that_the_database_says_of_them];

async fn errors_are_told_with_all_that_the_database_says_of_them(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let client = database.client("supabase_admin").await;
    client
        .batch_execute(
            "create table parent (id int primary key);
             create table child (parent int not null constraint belongs references parent);",
        )
        .await
        .expect("the tables are new");
    for (statement, expected) in [
        (
            "select 'hey'::int",
            r#"ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "hey""#,
        ),
        (
            "do $$ begin raise 'invalid column for filter subject'; end $$",
            "ERROR P0001 (raise_exception) invalid column for filter subject",
        ),
        (
            "do $$ begin raise 'mine' using errcode = 'PT404'; end $$",
            "ERROR PT404 (nil) mine",
        ),
        (
            "select 'ghost'::regrole",
            r#"ERROR 42704 (undefined_object) role "ghost" does not exist"#,
        ),
        (
            "insert into child values (null)",
            "ERROR 23502 (not_null_violation) null value in column \"parent\" of relation \"child\" violates not-null constraint\n\
             \n    table: child\n    column: parent\
             \n\nFailing row contains (null).",
        ),
        (
            "insert into child values (7)",
            "ERROR 23503 (foreign_key_violation) insert or update on table \"child\" violates foreign key constraint \"belongs\"\n\
             \n    table: child\n    constraint: belongs\
             \n\nKey (parent)=(7) is not present in table \"parent\".",
        ),
        (
            "select '1'::json = '1'::json",
            "ERROR 42883 (undefined_function) operator does not exist: json = json\n\
             \n    hint: No operator matches the given name and argument types. You might need to add explicit type casts.",
        ),
    ] {
        let error = client
            .batch_execute(statement)
            .await
            .expect_err("it is refused");
        let error = error.as_db_error().expect("the database says so");
        assert_eq!(exception_text(error), expected, "{statement}");
    }
}
