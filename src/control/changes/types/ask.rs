//! Values in JSON that only PostgreSQL knows.
//!
//! What comes in: texts of values whose types [`Type::needs_asking`]. What goes out: their JSON, as [`Type::write_json`] would write it.
//! What always holds: a value on which a cast raises, or takes long, costs the others nothing but queries (`one_bad_value_costs_no_other`);
//! nobody waits longer than [`limits::CHANGE_VALUES_ASK_TIMEOUT`] for the database's answers, whatever the casts do
//! (`casts_that_never_end_end`). Deliberately absent: what becomes of values that have none.

use super::Type;
use crate::control::clock;
use crate::control::database::statement;
use crate::limits;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type as BuiltIn};
use tokio_postgres::{Client, Error, Row};

/// Some texts of one question, in one statement.
struct Part {
    question: usize,
    from: usize,
    to: usize,
    /// How long it may take.
    timeout: Duration,
}

/// Asks for the JSON of these texts, type by type: one query each, and a few more for each value on which its cast raises or takes long.
/// Such a value has none, nor have those that were not reached in time.
///
/// # Errors
///
/// What breaks the connection.
pub async fn ask_json(
    client: &Client,
    questions: &[(&Type, Vec<&str>)],
) -> Result<Vec<Vec<Option<Box<str>>>>, Error> {
    let deadline = clock::now() + limits::CHANGE_VALUES_ASK_TIMEOUT;
    let none = |(_, texts): &(&Type, Vec<&str>)| vec![None; texts.len()];
    let mut answers: Vec<Vec<Option<Box<str>>>> = questions.iter().map(none).collect();
    let whole = |(question, (_, texts)): (usize, &(&Type, Vec<&str>))| Part {
        question,
        from: 0,
        to: texts.len(),
        timeout: limits::CHANGE_VALUES_STATEMENT_TIMEOUT,
    };
    let mut waiting: VecDeque<Part> = questions.iter().enumerate().map(whole).collect();
    waiting.retain(|part| part.from < part.to);
    // What has failed is asked again behind all others.
    while let Some(part) = waiting.pop_front() {
        let now = clock::now();
        if now >= deadline {
            break;
        }
        let (asked, texts) = &questions[part.question];
        match ask_part(
            client,
            asked,
            &texts[part.from..part.to],
            part.timeout_at(now, deadline),
        )
        .await
        {
            Ok(rows) => {
                let answers = &mut answers[part.question][part.from..part.to];
                for (answer, row) in answers.iter_mut().zip(&rows) {
                    let json: Option<String> = row.try_get(0)?;
                    *answer = json.map(String::into_boxed_str);
                }
            }
            Err(error) if !is_about_a_value(&error) => return Err(error),
            Err(error) => waiting.extend(part.halves(&error)),
        }
    }
    Ok(answers)
}

impl Part {
    fn timeout_at(&self, now: Instant, deadline: Instant) -> Duration {
        let left = deadline.duration_since(now);
        self.timeout.min(left).max(Duration::from_millis(1))
    }

    /// What is left to be asked after an error: nothing of a value that was alone.
    fn halves(self, error: &Error) -> Vec<Self> {
        if self.to - self.from == 1 {
            return Vec::new();
        }
        let timeout = if error.code() == Some(&SqlState::QUERY_CANCELED) {
            limits::CHANGE_VALUES_HALF_TIMEOUT
        } else {
            self.timeout
        };
        let middle = self.from.midpoint(self.to);
        [(self.from, middle), (middle, self.to)]
            .map(|(from, to)| Self {
                from,
                to,
                timeout,
                ..self
            })
            .into()
    }
}

async fn ask_part(
    client: &Client,
    asked: &Type,
    texts: &[&str],
    timeout: Duration,
) -> Result<Vec<Row>, Error> {
    let query = format!(
        "select pg_catalog.to_jsonb(v::{})::pg_catalog.text from pg_catalog.unnest($1) with ordinality u(v, n) order by n",
        asked.sql_name()
    );
    let begin = statement::begin(timeout);
    let parameters: [(&(dyn ToSql + Sync), BuiltIn); 1] = [(&texts, BuiltIn::TEXT_ARRAY)];
    let (begun, rows, _) = tokio::join!(
        biased;
        client.batch_execute(&begin),
        client.query_typed(&query, &parameters),
        client.batch_execute("rollback"),
    );
    begun?;
    rows
}

/// Whether the values, or what casts them, are to blame. What says that the server is in need is no reason to ask it more often
/// (classes 53, 57, 58 and the connection's own), but for a statement that was cancelled.
fn is_about_a_value(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        *code == SqlState::QUERY_CANCELED || !["08", "53", "57", "58"].contains(&&code.code()[..2])
    })
}
