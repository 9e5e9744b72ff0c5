//! Generated columns that a stream leaves out, beside what PostgreSQL has stored.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::catalog::TableNow;
use realtime::control::changes::change::{Content, Row};
use realtime::control::changes::generated::Computation;
use realtime::control::database::Connection;
use realtime::control::replication::pgoutput::{Column, Relation};

use crate::filters::{connected, table_now};
use crate::postgres::{Cluster, Kind};

tests![
    generated_columns_are_what_postgresql_stores,
    what_a_user_has_written_is_not_run,
];

async fn generated_columns_are_what_postgresql_stores(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(
        r#"create type mood as enum ('sad', 'glad'); create domain short as varchar(5) check (value <> 'no');
        create table t (id int primary key, a int, "n" text, v0 char(3), mood mood, f float8, d short, arr int[], "B b" timestamp(0),
          twice bigint generated always as (a * 2) stored,
          part numeric(6,2) generated always as (a / 3.0) stored,
          words tsvector generated always as (to_tsvector('english', coalesce("n", ''))) stored,
          padded text generated always as (v0 || '|') stored,
          is_glad bool generated always as (mood = 'glad') stored,
          moods mood[] generated always as (array[mood, null]) stored,
          half real generated always as (f / 2) stored,
          long text generated always as (upper(d) || "n") stored,
          first int generated always as (arr[1]) stored,
          day date generated always as ("B b"::date) stored,
          one int generated always as (1) stored,
          cut varchar(2) generated always as (substr("n", 1, 2)) stored);
        insert into t (id, a, "n", v0, mood, f, d, arr, "B b") values
          (1, 7, 'two words', 'x', 'glad', 1.5, 'short', '{3,4}', '2024-02-29 12:34:56.7'),
          (2, -1, 'quotes '' " \ {}', 'abc', 'sad', 'NaN', 'é', '{}', 'infinity'),
          (3, null, null, null, null, null, null, null, null),
          (4, 0, '', '', 'sad', 1e300 / 1e290, '', '[0:1]={5,6}', '0044-03-15 BC')"#,
    );
    let connection = connected(&database).await;
    let table = table_now(&connection.client, "public", "t", &[]).await;
    let (relation, rows) = rows_of(&connection, &table).await;
    let computation = Computation::of(&table, &relation).expect("it has generated columns");
    let whole = &computation.relation.columns;
    assert_eq!(whole.len(), table.columns.len(), "nothing is left out");
    let said: Vec<Row<'_>> = rows
        .iter()
        .map(|row| {
            let said = relation.columns.iter();
            let cell = |column: &Column| {
                let text = row[&column.name].as_deref();
                Some(text.map_or(Content::Null, Content::Text))
            };
            Row {
                new: said.map(cell).collect(),
                old: Vec::new(),
            }
        })
        .collect();
    let computed = computation.ask(&connection.client, &said).await;
    let computed = computed.expect("it was computed before");
    for ((mut row, computed), stored) in said.into_iter().zip(&computed).zip(&rows) {
        computation.complete(&mut row, Some(computed));
        for (cell, column) in row.new.iter().zip(whole) {
            let seen = match cell.expect("everything is known") {
                Content::Text(text) => Some(text),
                Content::Null => None,
            };
            assert_eq!(seen, stored[&column.name].as_deref(), "{}", column.name);
        }
    }
}

/// The table as a stream describes it, and its rows as one prints them.
async fn rows_of(
    connection: &Connection,
    table: &TableNow,
) -> (Relation, Vec<BTreeMap<String, Option<String>>>) {
    let is_generated = |name: &str| {
        let mut generated = table.generated.iter();
        generated.any(|generated| *generated.column == *name)
    };
    let said = table.columns.iter().filter(|now| !is_generated(&now.name));
    let relation = Relation {
        id: table.oid,
        schema: table.schema.to_string(),
        name: table.name.to_string(),
        replica_identity: b'd',
        columns: said
            .map(|now| Column {
                is_key: now.key_place.is_some(),
                name: now.name.to_string(),
                type_oid: now.type_oid,
                type_modifier: now.type_modifier,
            })
            .collect(),
    };
    let messages = connection
        .client
        .simple_query("select * from t order by id")
        .await;
    let rows = messages
        .expect("it can be read")
        .into_iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                let columns = row.columns().iter().enumerate();
                let values = columns
                    .map(|(n, column)| (column.name().to_owned(), row.get(n).map(str::to_owned)));
                Some(values.collect())
            }
            _ => None,
        });
    (relation, rows.collect())
}

async fn what_a_user_has_written_is_not_run(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        "create extension citext schema extensions;
         create function spy(int) returns int immutable language plpgsql as $$ begin return $1; end $$;
         create function spy_sql(int) returns int immutable language sql as $$ select $1 $$;
         create function less(int, text) returns bool immutable language plpgsql as $$ begin return true; end $$;
         create operator <<< (leftarg = int, rightarg = text, function = less);
         create domain checked as int check (spy(value) > 0);
         create domain over_checked as checked;
         create type pair as (a checked, b int);
         create table t (id int primary key, a int, c checked, cc over_checked, cs checked[], p pair, t text, e extensions.citext,
           plain int generated always as (a + 1) stored,
           base int generated always as (c + 1) stored,
           installed bool generated always as (e = 'x'::extensions.citext) stored,
           folded text generated always as (lower(e::text)) stored,
           of_function int generated always as (spy(a)) stored,
           of_sql int generated always as (spy_sql(a)) stored,
           of_operator bool generated always as (a <<< t) stored,
           of_cast int generated always as (a::checked) stored,
           of_domain checked generated always as (a) stored,
           of_domains int generated always as (cc + 1) stored,
           of_array int generated always as (array_length(cs, 1)) stored,
           of_cast_array int generated always as (array_length(array[a]::checked[], 1)) stored,
           of_row int generated always as ((p).b) stored)",
    );
    let connection = connected(&database).await;
    let table: Rc<TableNow> = table_now(&connection.client, "public", "t", &[]).await;
    let names: Vec<&str> = table.generated.iter().map(|one| &*one.column).collect();
    assert_eq!(names, ["plain", "base", "installed", "folded"]);
    let base = &table.generated[1];
    assert_eq!(*base.sources, [("c".into(), "integer".into())]);
}
