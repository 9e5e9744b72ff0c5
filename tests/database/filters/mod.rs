//! Filters of Postgres Changes, against a real PostgreSQL: what is refused when subscribing ([`checks`]), that every value has the answer
//! that PostgreSQL gives to the same comparison ([`answers`]), and how it is asked ([`asked`]).

pub mod answers;
pub mod asked;
pub mod checks;

use std::rc::Rc;

use realtime::control::changes::catalog::TableNow;
use realtime::control::changes::filter::{Filter, check};
use realtime::control::changes::{FilterText, Operator, Wanted, Wish};
use realtime::control::database::{Connection, connect};
use tokio_postgres::Client;

use crate::catalog::look;
use crate::postgres::Database;

/// A connection that is set up as the server's are.
pub async fn connected(database: &Database) -> Connection {
    connect(&database.settings(), "realtime_test")
        .await
        .expect("PostgreSQL runs")
}

/// A table as it is now, for these roles.
pub async fn table_now(client: &Client, schema: &str, name: &str, roles: &[&str]) -> Rc<TableNow> {
    let row = client
        .query_one(
            "select $1::text::regclass::oid",
            &[&format!("{schema}.{name}")],
        )
        .await
        .expect("the table is there");
    look(client, row.get(0), roles).await
}

/// One filter.
pub fn text(column: &str, operator: Operator, negate: bool, value: &str) -> FilterText {
    FilterText {
        column: column.to_owned(),
        operator,
        value: value.to_owned(),
        negate,
    }
}

/// A wish on `t`.
pub fn wish(filters: Vec<FilterText>) -> Wish {
    Wish {
        wanted: Wanted::All,
        schema: "public".to_owned(),
        table: "t".to_owned(),
        filters,
        select: None,
    }
}

/// The filters of a wish on `t`.
pub async fn checked(client: &Client, filters: Vec<FilterText>) -> Vec<Rc<Filter>> {
    let table = table_now(client, "public", "t", &["anon"]).await;
    let checked = check(client, &table, Some("anon"), &wish(filters)).await;
    checked.expect("they are right").filters.to_vec()
}
