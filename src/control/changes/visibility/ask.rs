//! One chunk as a transaction: everything is sent at once, and each entry has an outcome of its own.
//!
//! What comes in: a connection that nobody else uses, and a [`Chunk`]. What goes out: an [`Outcome`] for each of its entries. What always
//! holds: nothing is executed unless the role was taken on in the same transaction: whatever failed has aborted it, and each
//! query begins with going back to a savepoint that exists behind the role only. Deliberately absent: what to do with failures.

use super::chunk::{Chunk, Entry};
use super::connections::Session;
use super::{Check, Measures, statement};
use crate::control::database::statement::{reason_of, text_of};
use crate::limits;
use crate::mail::AskError;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Error, SimpleQueryMessage};

/// What became of an entry.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The keys that are visible, counted from the entry's first one.
    Seen(Vec<usize>),
    /// The database cannot answer this: a policy raised.
    Failed(Rc<str>),
    /// It could not in time.
    Late(Rc<str>),
    /// It could not answer whatever the keys: there is no such role, or it may not use the schema.
    Refused(Rc<str>),
    /// The connection was lost, or has lost what it had prepared.
    Unanswered(Rc<str>),
}

type Answer = Result<Vec<SimpleQueryMessage>, Error>;

/// Asks, and says each entry's outcome as soon as it is known, in their order. The connection has nothing under way afterwards; it may be
/// closed.
pub(super) async fn ask(
    session: &mut Session,
    checks: &[Check],
    chunk: &Chunk,
    measures: &Measures,
    mut tell: impl FnMut(&Entry, &Outcome),
) -> Vec<Outcome> {
    let first = &checks[chunk.entries[0].check];
    let columns = first.table.key.len();
    let (table, role) = (&first.table, &first.role);
    let statement = Prepared::of(session, role, statement::of_table(table, role));
    let forget = if statement.forgets {
        statement::FORGET
    } else {
        ""
    };
    let keys_of = |entry: &Entry| &checks[entry.check].keys[entry.from..entry.to];
    let keys = keys_of(&chunk.entries[0]);
    let mut messages = vec![format!(
        "{forget}{}; {}{}",
        statement::begin(role, chunk.timeout),
        statement::set_keys(keys, columns),
        statement::SAVEPOINT
    )];
    if let Some(sql) = &statement.sql {
        messages.push(statement::prepare(&statement.name, sql));
    }
    let setup = messages.len();
    if statement::uses_index(table, role) {
        messages.push(statement::plan(&statement.name, &first.claims));
    }
    let before = messages.len();
    for entry in &chunk.entries {
        let own = keys_of(entry);
        let is_same = std::ptr::eq(own, keys) || own == keys;
        let own = (!is_same).then(|| statement::set_keys(own, columns));
        let claims = &checks[entry.check].claims;
        messages.push(statement::execute(&statement.name, claims, own));
    }
    messages.push(statement::END.to_owned());
    Measures::add(&measures.transactions, 1);
    Measures::add(&measures.prepared, usize::from(statement.sql.is_some()));

    let mut has_plan = true;
    let mut failure = None;
    let mut outcomes = Vec::with_capacity(chunk.entries.len());
    let mut sent = send(session, &messages).await.into_iter().enumerate();
    while let Some((place, answer)) = next(&mut sent).await {
        if place < setup {
            failure = failure.or(answer.err());
        } else if place < before {
            has_plan &= answer.is_ok();
        } else if let Some(entry) = chunk.entries.get(outcomes.len()) {
            let outcome = match &failure {
                Some(error) => refused(error, role),
                None => outcome(answer),
            };
            tell(entry, &outcome);
            outcomes.push(outcome);
        }
    }
    drop(sent);
    let is_kept = !outcomes
        .iter()
        .any(|outcome| matches!(outcome, Outcome::Refused(_) | Outcome::Unanswered(_)));
    // What was planned with other settings is not to be used again.
    statement.keep_if(session, is_kept && has_plan);
    outcomes
}

/// A statement under a name of its own.
struct Prepared {
    place: (Rc<str>, String),
    name: Rc<str>,
    /// To be prepared, where it is not yet.
    sql: Option<String>,
    /// The connection is to forget all others before.
    forgets: bool,
}

impl Prepared {
    fn of(session: &mut Session, role: &Rc<str>, sql: String) -> Self {
        let place = (Rc::clone(role), sql);
        if let Some(name) = session.prepared.get(&place) {
            let name = Rc::clone(name);
            return Self {
                place,
                name,
                sql: None,
                forgets: false,
            };
        }
        let forgets = session.names >= limits::VISIBILITY_STATEMENTS_MAX;
        if forgets {
            session.prepared.clear();
            session.names = 0;
        }
        let name = Rc::from(format!("realtime_check_{}", session.names));
        session.names += 1;
        let sql = Some(place.1.clone());
        Self {
            place,
            name,
            sql,
            forgets,
        }
    }

    fn keep_if(self, session: &mut Session, is_kept: bool) {
        if is_kept {
            session.prepared.insert(self.place, self.name);
        } else {
            session.prepared.remove(&self.place);
        }
    }
}

/// A query that was sent, and its answer if that was there at once.
type Sent<'a> = (Pin<Box<dyn Future<Output = Answer> + 'a>>, Option<Answer>);

/// Sends all of it before anything is waited for: tokio-postgres enqueues a query at its first poll.
async fn send<'a>(session: &'a Session, messages: &'a [String]) -> Vec<Sent<'a>> {
    let client = session.client();
    let mut waiting: Vec<Sent<'a>> = messages
        .iter()
        .map(|message| -> Sent<'a> { (Box::pin(client.simple_query(message)), None) })
        .collect();
    std::future::poll_fn(|context| {
        for (query, answer) in &mut waiting {
            if let Poll::Ready(early) = query.as_mut().poll(context) {
                *answer = Some(early);
            }
        }
        Poll::Ready(())
    })
    .await;
    waiting
}

/// The next answer with its place.
async fn next<'a>(sent: &mut impl Iterator<Item = (usize, Sent<'a>)>) -> Option<(usize, Answer)> {
    let (place, (query, early)) = sent.next()?;
    let answer = match early {
        Some(answer) => answer,
        None => query.await,
    };
    Some((place, answer))
}

fn outcome(answer: Answer) -> Outcome {
    let messages = match answer {
        Ok(messages) => messages,
        Err(error) => return failed(&error),
    };
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    match rows.last() {
        Some(row) => Outcome::Seen(places(row.get(0).unwrap_or("{}"))),
        None => Outcome::Failed("the database sent no row".into()),
    }
}

/// `{1,3}` as places from 0.
fn places(array: &str) -> Vec<usize> {
    let numbers = array.trim_matches(['{', '}']).split(',');
    numbers
        .filter_map(|number| number.parse::<usize>().ok()?.checked_sub(1))
        .collect()
}

fn failed(error: &Error) -> Outcome {
    let Some(said) = error.as_db_error() else {
        let text = Rc::from(error.to_string());
        // What cannot be sent at all is not sent the next time either.
        return match reason_of(error) {
            Some(AskError::Unreachable) => Outcome::Unanswered(text),
            _ => Outcome::Failed(text),
        };
    };
    let text = Rc::from(text_of(said));
    let is_lost = matches!(reason_of(error), Some(AskError::Unreachable))
        || *said.code() == SqlState::INVALID_SQL_STATEMENT_NAME;
    if is_lost {
        Outcome::Unanswered(text)
    } else if *said.code() == SqlState::QUERY_CANCELED {
        Outcome::Late(text)
    } else {
        Outcome::Failed(text)
    }
}

/// What went wrong before there were keys and claims.
fn refused(error: &Error, role: &str) -> Outcome {
    let is_forbidden = |said: &DbError| said.message().contains("role \"\"");
    if error.as_db_error().is_some_and(is_forbidden) {
        return Outcome::Refused(format!("the role {role:?} may not be taken on").into());
    }
    match failed(error) {
        Outcome::Failed(reason) | Outcome::Late(reason) => Outcome::Refused(reason),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one_in_sql() {
        let check = |text: &str, expected: &[usize]| assert_eq!(places(text), expected);
        check("{}", &[]);
        check("{1}", &[0]);
        check("{2,7,3}", &[1, 6, 2]);
        check("{0,NULL}", &[]);
    }
}
