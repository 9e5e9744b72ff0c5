//! Filters of Postgres Changes, against a real PostgreSQL: what is refused when subscribing ([`checks`]), that every value has the answer
//! that PostgreSQL gives to the same comparison ([`answers`]), and how it is asked ([`asked`]).

pub mod answers;
pub mod asked;
pub mod checks;

use std::rc::Rc;

use realtime::control::changes::catalog::{ColumnNow, RoleNow, TableNow};
use realtime::control::changes::filter::{Filter, check};
use realtime::control::changes::{FilterText, Operator, Wanted, Wish};
use realtime::control::database::{Connection, connect};
use tokio_postgres::Client;

use crate::postgres::Database;

/// A connection that is set up as the server's are.
pub async fn connected(database: &Database) -> Connection {
    connect(&database.settings(), "realtime_test")
        .await
        .expect("PostgreSQL runs")
}

/// A table as it is now, for these roles.
pub async fn table_now(client: &Client, schema: &str, name: &str, roles: &[&str]) -> TableNow {
    let table = format!("{schema}.{name}");
    let rows = client
        .query(
            "select attname::text, attnum, atttypid, typname::text, attrelid
             from pg_attribute join pg_type t on t.oid = atttypid
             where attrelid = $1::text::regclass and attnum > 0 and not attisdropped order by attnum",
            &[&table],
        )
        .await
        .expect("the table is there");
    let columns: Vec<ColumnNow> = rows
        .iter()
        .map(|row| ColumnNow {
            name: row.get::<_, String>(0).into(),
            number: row.get(1),
            type_oid: row.get(2),
            type_modifier: -1,
            type_name: row.get::<_, String>(3).into(),
            key_place: None,
            is_deterministic: true,
        })
        .collect();
    let mut now = TableNow {
        oid: rows.first().map_or(0, |row| row.get(4)),
        schema: schema.into(),
        name: name.into(),
        is_rls_enabled: false,
        key: Vec::new(),
        columns,
        roles: Default::default(),
    };
    for role in roles {
        let rows = client
            .query(
                "select has_column_privilege(r.oid, $2::text::regclass, attnum, 'select')
                 from pg_roles r, pg_attribute
                 where rolname = $1 and attrelid = $2::text::regclass and attnum > 0 and not attisdropped order by attnum",
                &[role, &table],
            )
            .await
            .expect("it is a statement");
        let role_now = RoleNow {
            exists: !rows.is_empty(),
            may_select: rows.iter().map(|row| row.get(0)).collect(),
            sees_all_rows: false,
        };
        now.roles.insert((*role).into(), role_now);
    }
    now
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
