//! The SQL of a check.
//!
//! What comes in: tables, roles, claims and keys. What goes out: the text of simple queries, in which every name and every value is
//! quoted ([`quote`](crate::control::database::quote)): a policy may change any setting. Deliberately absent:
//! parameters; see the room's documentation.

use super::Key;
use crate::control::changes::catalog::{KeyPart, RoleNow, TableNow};
use crate::control::database::quote::{identifier, literal};
use crate::control::database::statement;
use std::fmt::Write as _;
use std::time::Duration;

/// What a transaction's queries go back to.
pub(super) const SAVEPOINT: &str = "savepoint realtime_check";

/// Ends a transaction, however it went.
pub(super) const END: &str = "rollback";

/// Forgets all prepared statements.
pub(super) const FORGET: &str = "deallocate all; ";

/// The statement that selects, in one row, the places of the keys that are there and visible to this role, counted from 1; null for none.
pub(super) fn of_table(table: &TableNow, role: &str) -> String {
    let (mut sources, mut names, mut finds) = (String::new(), String::new(), String::new());
    for (place, part) in table.key.iter().enumerate() {
        let (comma, and) = if place == 0 {
            ("", "")
        } else {
            (", ", " and ")
        };
        let _ = write!(
            sources,
            "{comma}pg_catalog.unnest(pg_catalog.current_setting('{}')::pg_catalog.text[])",
            setting(place)
        );
        let _ = write!(names, "k{place}, ");
        let KeyPart {
            column,
            type_sql,
            equality_sql,
            ..
        } = part;
        let column = identifier(column);
        let _ = write!(
            finds,
            "{and}t.{column} {equality_sql} k.k{place}::{type_sql}"
        );
    }
    let (schema, name) = (identifier(&table.schema), identifier(&table.name));
    let keys = format!("rows from ({sources}) with ordinality as k({names}n)");
    // A lateral subquery is evaluated key by key. Without an index that would be a scan for each key: there, a join does one for all.
    let found = if uses_index(table, role) {
        format!("cross join lateral (select from {schema}.{name} t where {finds} limit 1) found")
    } else {
        format!("join {schema}.{name} t on {finds}")
    };
    format!("select pg_catalog.array_agg(k.n) from {keys} {found}")
}

/// Whether rows are found by an index: always where no policy counts.
pub(super) fn uses_index(table: &TableNow, role: &str) -> bool {
    let sees_all_rows = |role: &RoleNow| role.sees_all_rows;
    table.roles.get(role).is_some_and(sees_all_rows)
        || table.key.iter().any(|part| part.is_leakproof)
}

/// Begins a transaction and becomes `role` in it. A role that does not exist is an error of PostgreSQL's own. The connection's user and
/// superusers are made one, by a name that no role can have; the branches are tried in their order, and what fails aborts the
/// transaction (`authorization::check` does the same for channels). Each statement may take `timeout`.
pub(super) fn begin(role: &str, timeout: Duration) -> String {
    let (begin, role) = (statement::begin(timeout), literal(role));
    format!(
        "{begin}; select case \
         when {role}::pg_catalog.text in (session_user::pg_catalog.text, current_user::pg_catalog.text) \
             then pg_catalog.set_config('role', '', true) \
         when pg_catalog.set_config('role', {role}, true) is null then null \
         when pg_catalog.current_setting('is_superuser') <> 'off' then pg_catalog.set_config('role', '', true) end"
    )
}

/// Sets the keys, column by column.
pub(super) fn set_keys(keys: &[Key], columns: usize) -> String {
    let mut text = String::new();
    for place in 0..columns {
        let mut list = String::from("{");
        for key in keys {
            if list.len() > 1 {
                list.push(',');
            }
            list.push('"');
            for letter in key[place].chars() {
                if matches!(letter, '"' | '\\') {
                    list.push('\\');
                }
                list.push(letter);
            }
            list.push('"');
        }
        list.push('}');
        let _ = write!(text, "set local {} = {}; ", setting(place), literal(&list));
    }
    text
}

/// Sets the claims.
pub(super) fn set_claims(claims: &str) -> String {
    format!("set local request.jwt.claims = {}; ", literal(claims))
}

/// Prepares a statement under a name.
pub(super) fn prepare(name: &str, sql: &str) -> String {
    format!("prepare {name} as {sql}")
}

/// Has a prepared statement planned, if it is not yet, or not any more. The settings are gone with the next query.
pub(super) fn plan(name: &str, claims: &str) -> String {
    let claims = set_claims(claims);
    format!("{claims}set local enable_seqscan = off; explain (costs off) execute {name}")
}

/// A query with claims, behind others.
pub(super) fn execute(name: &str, claims: &str, keys: Option<String>) -> String {
    let (keys, claims) = (keys.unwrap_or_default(), set_claims(claims));
    format!("rollback to {SAVEPOINT}; {keys}{claims}execute {name}")
}

/// The setting that a key column's values are passed in.
fn setting(place: usize) -> String {
    format!("realtime.check_keys_{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(column: &str, type_sql: &str, is_leakproof: bool) -> KeyPart {
        KeyPart {
            column: column.into(),
            type_sql: type_sql.into(),
            equality_sql: "operator(pg_catalog.=)".into(),
            is_leakproof,
        }
    }

    fn table(key: Vec<KeyPart>) -> TableNow {
        TableNow {
            schema: "Odd.one".into(),
            name: "a \"b\"".into(),
            key,
            ..TableNow::default()
        }
    }

    #[test]
    fn keys_are_arrays_of_texts() {
        let keys: [Key; 2] = [
            ["1".into(), "a\"b".into()].into(),
            ["2".into(), "c\\,{}'".into()].into(),
        ];
        assert_eq!(
            set_keys(&keys, 2),
            "set local realtime.check_keys_0 = '{\"1\",\"2\"}'; \
             set local realtime.check_keys_1 =  E'{\"a\\\\\"b\",\"c\\\\\\\\,{}''\"}'; "
        );
    }

    #[test]
    fn rows_are_found_key_by_key_where_an_index_may_be_used() {
        let of_table = |table: &TableNow| of_table(table, "anon");
        let uses_index = |table: &TableNow| uses_index(table, "anon");
        let one = of_table(&table(vec![part("id", "pg_catalog.int4", true)]));
        assert!(
            one.ends_with(
                "as k(k0, n) cross join lateral (select from \"Odd.one\".\"a \"\"b\"\"\" t \
                 where t.\"id\" operator(pg_catalog.=) k.k0::pg_catalog.int4 limit 1) found"
            ),
            "{one}"
        );
        let both = [
            part("id", "pg_catalog.numeric", false),
            part("b", "pg_catalog.text", true),
        ];
        let [numeric, _] = &both;
        assert!(uses_index(&table(both.to_vec())));
        let mut table = table(vec![numeric.clone()]);
        let none = of_table(&table);
        assert!(!none.contains("lateral"), "{none}");
        let role = RoleNow {
            sees_all_rows: true,
            ..RoleNow::default()
        };
        table.roles.insert("anon".into(), role);
        assert!(uses_index(&table), "no policy is in the way");
    }
}
