//! Values of changed rows in JSON, as the server writes them, against what PostgreSQL's `to_jsonb` makes of them.
//!
//! A value is made by an expression in SQL; PostgreSQL prints it as a replication stream has it, and its JSON, which has to be ours
//! byte for byte. What wal2json makes of a column that is bytes or no number is the one difference.

use std::sync::Arc;

use realtime::control::changes::types::{Kind as TypeKind, Malformed, Type, Types};
use realtime::control::database::connect::describe;
use realtime::control::database::{Connection, connect};

use crate::postgres::{Cluster, Database, Kind};

pub mod asked;
pub mod documents;
pub mod made;
pub mod simple;

/// A database, a connection like the server's, and what is known of types.
pub struct World {
    pub connection: Connection,
    pub types: Types,
    /// Its cluster stays as long as it does.
    _database: Database,
}

impl World {
    pub async fn new(cluster: &Arc<Cluster>) -> Self {
        let database = cluster.database(Kind::Empty);
        let connection = connect(&database.settings(), "realtime_rls").await;
        Self {
            connection: connection.expect("PostgreSQL runs"),
            types: Types::new(),
            _database: database,
        }
    }

    pub async fn run(&self, sql: &str) {
        let done = self.connection.client.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{}: {sql}", describe(&error)));
    }

    /// Compares all values of a query's column `v`, which may use texts, and returns how many there are.
    pub async fn compare(&self, query: &str, texts: &[String]) -> usize {
        // The output function, which is not always the cast to text; the quirks of wal2json; our own form.
        let query = format!(
            "select pg_catalog.format('%s', v), to_jsonb(v)::text, pg_typeof(v)::oid, v is null from ({query}) q
             where coalesce(cardinality($1::text[]), 0) >= 0"
        );
        let rows = self.connection.client.query(&query, &[&texts]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{}: {query}", describe(&error)));
        let mut differences = Vec::new();
        for row in &rows {
            let (text, expected, oid): (String, Option<String>, u32) =
                (row.get(0), row.get(1), row.get(2));
            let Some(expected) = expected else { continue };
            let is_null: bool = row.get(3);
            // Rows of NULLs alone are `is null` as well, but print something.
            if is_null && text.is_empty() {
                continue;
            }
            self.types
                .load(&self.connection.client, &[oid])
                .await
                .expect("types can be read");
            let of = self.types.get(oid).expect("it was loaded");
            let expected = match &of.kind {
                TypeKind::Bytea => expected.replacen("\\\\x", "", 1),
                TypeKind::Numeric | TypeKind::Real | TypeKind::Double
                    if expected.starts_with('"') =>
                {
                    "null".to_owned()
                }
                _ => expected,
            };
            if json(&of, &text).as_ref() != Ok(&expected) {
                differences.push(format!(
                    "{} {text}\n  expected {expected}\n  written  {:?}",
                    of.name,
                    json(&of, &text)
                ));
            }
        }
        assert!(
            differences.is_empty(),
            "{} of {}:\n{}",
            differences.len(),
            rows.len(),
            differences.join("\n")
        );
        rows.len()
    }

    /// Compares these literals of a type.
    pub async fn literals(&self, of: &str, literals: &[&str]) {
        let texts: Vec<String> = literals.iter().map(|&text| text.to_owned()).collect();
        let count = self
            .compare(
                &format!("select x::{of} as v from unnest($1::text[]) x"),
                &texts,
            )
            .await;
        assert_eq!(count, literals.len(), "{of}");
    }
}

pub fn json(of: &Type, text: &str) -> Result<String, Malformed> {
    let mut out = Vec::new();
    of.write_json(&mut out, text)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// Numbers that come the same way each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A few characters that mean something to somebody.
    pub fn text(&mut self) -> String {
        let pieces = [
            "a", "b", " ", ",", ";", "\"", "\\", "{", "}", "(", ")", "[", "]", "'", "NULL", "é",
            "😀", "\n", "\t", "\u{1}", "=", "x",
        ];
        (0..self.below(6)).map(|_| self.one(&pieces)).collect()
    }
}
