//! Values in JSON that only PostgreSQL knows.
//!
//! What comes in: texts of values whose types [`Type::needs_asking`]. What goes out: their JSON, as [`Type::write_json`] would write it.
//! What always holds: a value on which a cast raises, or takes long, costs the others nothing but queries (`one_bad_value_costs_no_other`);
//! a type whose casts have taken too long is asked about last and briefly from then on
//! (`casts_that_take_long_hold_up_one_batch`); nobody waits longer than [`limits::CHANGE_VALUES_ASK_TIMEOUT`] and
//! [`limits::CHANGE_VALUES_SLOW_TIMEOUT`] for the database's answers, whatever the casts do (`casts_that_never_end_end`). Deliberately
//! absent: what becomes of values that have none.

use super::Type;
use crate::control::clock;
use crate::control::database::statement;
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type as BuiltIn};
use tokio_postgres::{Client, Error, Row};

/// Asks one database, and remembers the casts of which types have taken too long there.
#[derive(Debug, Default)]
pub struct Converter {
    /// Since when, by the types' numbers.
    slow: RefCell<FxHashMap<u32, Instant>>,
}

/// Types with texts of their values.
type Questions<'a> = [(&'a Type, Vec<&'a str>)];

/// JSON by question and text, where there is any.
type Answers = Vec<Vec<Option<Box<str>>>>;

/// Some texts of one question, in one statement.
struct Part {
    question: usize,
    from: usize,
    to: usize,
    /// How long it may take.
    timeout: Duration,
}

impl Converter {
    /// Asks for the JSON of these texts, type by type: one query each, and a few more for each value on which its cast raises or takes long.
    /// Such a value has none, nor have those that were not reached in time.
    ///
    /// # Errors
    ///
    /// What breaks the connection.
    pub async fn ask(&self, client: &Client, questions: &Questions<'_>) -> Result<Answers, Error> {
        let now = clock::now();
        self.slow
            .borrow_mut()
            .retain(|_, since| now < *since + limits::CHANGE_VALUES_SLOW_LIFETIME);
        let is_slow = |part: &Part| {
            let (asked, _) = &questions[part.question];
            self.slow.borrow().contains_key(&asked.oid)
        };
        let (slow, quick) = parts(questions, is_slow);
        let none = |(_, texts): &(&Type, Vec<&str>)| vec![None; texts.len()];
        let mut asking = Asking {
            client,
            questions,
            answers: questions.iter().map(none).collect(),
            late: FxHashSet::default(),
        };
        let until = now + limits::CHANGE_VALUES_ASK_TIMEOUT;
        asking.work(quick, until).await?;
        let until = clock::now() + limits::CHANGE_VALUES_SLOW_TIMEOUT;
        asking.work(slow, until).await?;
        self.remember(&asking.late);
        Ok(asking.answers)
    }

    fn remember(&self, late: &FxHashSet<u32>) {
        let (mut slow, now) = (self.slow.borrow_mut(), clock::now());
        for oid in late {
            // When there is no room, it is given its full time again.
            if slow.len() < limits::CHANGE_VALUES_SLOW_MAX {
                slow.entry(*oid).or_insert(now);
            }
        }
    }
}

/// A statement for each question that has texts: those that are known to be slow, and all others.
fn parts(
    questions: &Questions<'_>,
    is_slow: impl Fn(&Part) -> bool,
) -> (VecDeque<Part>, VecDeque<Part>) {
    let whole = |(question, (_, texts)): (usize, &(&Type, Vec<&str>))| Part {
        question,
        from: 0,
        to: texts.len(),
        timeout: limits::CHANGE_VALUES_STATEMENT_TIMEOUT,
    };
    let all = questions.iter().enumerate().map(whole);
    let (mut slow, quick): (VecDeque<Part>, VecDeque<Part>) =
        all.filter(|part| part.from < part.to).partition(is_slow);
    for part in &mut slow {
        part.timeout = limits::CHANGE_VALUES_HALF_TIMEOUT;
    }
    (slow, quick)
}

/// Questions that are being asked, and what was answered.
struct Asking<'a> {
    client: &'a Client,
    questions: &'a Questions<'a>,
    answers: Answers,
    /// Types that have taken longer than they may.
    late: FxHashSet<u32>,
}

impl Asking<'_> {
    /// Does what can be done until then.
    async fn work(&mut self, mut waiting: VecDeque<Part>, until: Instant) -> Result<(), Error> {
        // What has failed is asked again behind all others.
        while let Some(part) = waiting.pop_front() {
            let now = clock::now();
            if now >= until {
                break;
            }
            let (asked, texts) = &self.questions[part.question];
            let timeout = part.timeout_at(now, until);
            let texts = &texts[part.from..part.to];
            match ask_part(self.client, asked, texts, timeout).await {
                Ok(rows) => {
                    let answers = &mut self.answers[part.question][part.from..part.to];
                    for (answer, row) in answers.iter_mut().zip(&rows) {
                        let json: Option<String> = row.try_get(0)?;
                        *answer = json.map(String::into_boxed_str);
                    }
                }
                Err(error) if !is_about_a_value(&error) => return Err(error),
                Err(error) => {
                    // Of one that had but the rest of all time nothing is known.
                    if is_late(&error) && timeout == part.timeout {
                        self.late.insert(asked.oid);
                    }
                    waiting.extend(part.halves(&error));
                }
            }
        }
        Ok(())
    }
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
        let timeout = if is_late(error) {
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

fn is_late(error: &Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
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
#[must_use]
pub fn is_about_a_value(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        *code == SqlState::QUERY_CANCELED || !["08", "53", "57", "58"].contains(&&code.code()[..2])
    })
}
