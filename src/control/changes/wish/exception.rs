//! What the database says, as the original's driver prints it (spec: postgres-changes 3.2).

use super::condition::condition_name;
use std::fmt::Write;
use tokio_postgres::error::DbError;

/// An error of the database, with what it concerns, its hint and its detail.
#[must_use]
pub fn exception_text(error: &DbError) -> String {
    let mut text = raised_text(error.severity(), error.code().code(), error.message());
    let concerns = [
        ("table", error.table()),
        ("column", error.column()),
        ("constraint", error.constraint()),
        ("hint", error.hint()),
    ];
    let mut is_first = true;
    for (name, value) in concerns {
        if let Some(value) = value {
            if is_first {
                text.push('\n');
            }
            is_first = false;
            let _ = write!(text, "\n    {name}: {value}");
        }
    }
    if let Some(detail) = error.detail() {
        let _ = write!(text, "\n\n{detail}");
    }
    text
}

/// An error that this server raises where the original lets the database do it: `ERROR`, `P0001`, a message.
#[must_use]
pub fn raised_text(severity: &str, sqlstate: &str, message: &str) -> String {
    format!(
        "{severity} {sqlstate} ({}) {message}",
        condition_name(sqlstate)
    )
}
