//! What all statements in tenants' databases have in common: how long they may take, and what their errors mean.
//!
//! What always holds: an error of any kind has a reason or a text; the texts are what the database calls its message, without the
//! details, in which rows of the customer may stand. Deliberately absent: what an error means to one question alone.

use crate::mail::AskError;
use std::time::Duration;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

/// Begins a transaction whose statements may take the shorter of `timeout` and what the database allows anyway (0 means any time).
#[must_use]
pub fn begin(timeout: Duration) -> String {
    let ms = timeout.as_millis();
    format!(
        "begin; select pg_catalog.set_config('statement_timeout', '{ms}', true) \
         where pg_catalog.current_setting('statement_timeout')::interval not between '1 ms' and '{ms} ms'"
    )
}

/// What an error means whatever was asked; nothing where that depends.
#[must_use]
pub fn reason_of(error: &Error) -> Option<AskError> {
    let Some(database) = error.as_db_error() else {
        return Some(without_words(error));
    };
    let gone = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::DATABASE_DROPPED,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::IDLE_SESSION_TIMEOUT,
    ];
    let code = database.code();
    if gone.contains(code) || code.code().starts_with("08") {
        Some(AskError::Unreachable)
    } else if *code == SqlState::QUERY_CANCELED {
        Some(AskError::Canceled(text_of(database)))
    } else if is_ours_missing(database) {
        let text = text_of(database);
        Some(AskError::Other(format!(
            "the schema \"realtime\" of the tenant's database is not complete: {text}"
        )))
    } else {
        None
    }
}

/// What a connection said that has no words of the database.
fn without_words(error: &Error) -> AskError {
    let source = std::error::Error::source(error);
    let is_lost = error.is_closed() || source.is_some_and(|source| source.is::<std::io::Error>());
    if is_lost {
        AskError::Unreachable
    } else {
        AskError::Other(error.to_string())
    }
}

/// Whether a statement of ours names what is not there. What a function of the customer does not find has no place in our text.
fn is_ours_missing(database: &DbError) -> bool {
    let missing = [
        SqlState::UNDEFINED_TABLE,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_COLUMN,
    ];
    let is_in_our_text = matches!(database.position(), Some(ErrorPosition::Original(_)));
    missing.contains(database.code()) && is_in_our_text
}

/// `ERROR 22012: division by zero`.
#[must_use]
pub fn text_of(database: &DbError) -> String {
    let (severity, code) = (database.severity(), database.code().code());
    format!("{severity} {code}: {}", database.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_begin_with_their_time() {
        let text = begin(Duration::from_secs(5));
        assert!(
            text.starts_with("begin; select ") && text.contains("'5000', true"),
            "{text}"
        );
        assert!(text.ends_with("not between '1 ms' and '5000 ms'"), "{text}");
    }
}
