//! Questions that only PostgreSQL can answer, for many values at once.
//!
//! What comes in: filters, each with texts of its column's values. What goes out: whether each of them passes. What always holds: equal
//! questions are asked once; filters of one kind with the same values are one statement; each statement has a transaction of its own
//! that is rolled back, and all of a round are enqueued at once; an error is looked for until its filter and value are found, and is
//! the answer no there and nowhere else (`an_error_is_of_one_value_alone`); a filter that takes too long costs its own answers, and
//! nobody waits longer than [`limits::FILTER_ASK_TIMEOUT`] and one round.

use super::Filter;
use crate::control::clock;
use crate::control::database::statement;
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// Whether each value of each question passes its filter, in the order of the questions. What fails or takes too long does not pass.
///
/// # Errors
///
/// Those of the connection: nothing was answered.
pub async fn ask(
    client: &Client,
    questions: &[(Rc<Filter>, Vec<Box<str>>)],
) -> Result<Vec<Vec<bool>>, Error> {
    let deadline = clock::now() + limits::FILTER_ASK_TIMEOUT;
    let mut passed: FxHashSet<(&Filter, &str)> = FxHashSet::default();
    let mut waiting: VecDeque<Job<'_>> = jobs(questions).into();
    while !waiting.is_empty() && clock::now() < deadline {
        let count = waiting.len().min(limits::FILTER_STATEMENTS_AT_ONCE);
        let round: Vec<Job<'_>> = waiting.drain(..count).collect();
        let outcomes = all(round.iter().map(|job| run(client, job)).collect()).await;
        for (job, outcome) in round.into_iter().zip(outcomes) {
            match outcome {
                Ok(answers) => {
                    let pairs = job.filters.iter().flat_map(|filter| {
                        let values = job.values.iter();
                        values.map(move |value| (*filter, *value))
                    });
                    let yes = pairs.zip(answers).filter(|(_, is_yes)| *is_yes);
                    passed.extend(yes.map(|(pair, _)| pair));
                }
                Err(error) => waiting.extend(job.after(error)?),
            }
        }
    }
    let answers = questions.iter().map(|(filter, values)| {
        let texts = values.iter().map(|value| filter.asked_as(value));
        texts
            .map(|text| passed.contains(&(&**filter, text)))
            .collect()
    });
    Ok(answers.collect())
}

/// One statement: each of these filters, which have the same question, with each of these values.
struct Job<'a> {
    filters: Vec<&'a Filter>,
    values: Vec<&'a str>,
    /// How long it may take.
    timeout: Duration,
}

/// As few statements as there can be.
fn jobs(questions: &[(Rc<Filter>, Vec<Box<str>>)]) -> Vec<Job<'_>> {
    let mut values_of: FxHashMap<&Filter, FxHashSet<&str>> = FxHashMap::default();
    for (filter, values) in questions {
        let texts = values.iter().map(|value| filter.asked_as(value));
        values_of.entry(filter).or_default().extend(texts);
    }
    let mut alike: FxHashMap<(&str, Vec<&str>), Vec<&Filter>> = FxHashMap::default();
    for (filter, values) in values_of {
        let mut values: Vec<&str> = values.into_iter().collect();
        values.sort_unstable();
        let group = alike.entry((&*filter.question, values)).or_default();
        group.push(filter);
    }
    let mut jobs = Vec::new();
    for ((_, values), filters) in alike {
        for values in values.chunks(limits::FILTER_PAIRS_MAX) {
            for filters in filters.chunks((limits::FILTER_PAIRS_MAX / values.len()).max(1)) {
                jobs.push(Job {
                    filters: filters.to_vec(),
                    values: values.to_vec(),
                    timeout: limits::FILTER_STATEMENT_TIMEOUT,
                });
            }
        }
    }
    jobs
}

impl<'a> Job<'a> {
    /// What is still to be asked after `error`; the error itself when it is the connection's.
    fn after(mut self, error: Error) -> Result<Vec<Self>, Error> {
        let Some(code) = error.code().filter(|code| !is_of_connection(code)) else {
            return Err(error);
        };
        if *code == SqlState::QUERY_CANCELED {
            // One of the filters takes long: the others are given their time, and it is not given another one.
            if self.timeout == limits::FILTER_ALONE_TIMEOUT {
                return Ok(Vec::new());
            }
            let alone = |filter| Self {
                filters: vec![filter],
                values: self.values.clone(),
                timeout: limits::FILTER_ALONE_TIMEOUT,
            };
            return Ok(self.filters.iter().copied().map(alone).collect());
        }
        let (mut filters, mut values) = (self.filters.clone(), self.values.clone());
        if filters.len() > 1 {
            filters = self.filters.split_off(self.filters.len() / 2);
        } else if values.len() > 1 {
            values = self.values.split_off(self.values.len() / 2);
        } else {
            return Ok(Vec::new());
        }
        let other = Self {
            filters,
            values,
            timeout: self.timeout,
        };
        Ok(vec![self, other])
    }
}

/// Whether an error says nothing of what was asked: no further statement will succeed.
pub(super) fn is_of_connection(code: &SqlState) -> bool {
    let is_class = |class| code.code().starts_with(class);
    is_class("08") || is_class("57P") || is_class("53")
}

/// The answers of a job, filter by filter.
async fn run(client: &Client, job: &Job<'_>) -> Result<Vec<bool>, Error> {
    let question = job.filters.first().map_or("", |filter| &*filter.question);
    let text = format!(
        "select array(select coalesce({question}, false) \
         from unnest($1) with ordinality as f(f, n) cross join unnest($2) with ordinality as v(v, n) order by f.n, v.n)"
    );
    let operands: Vec<&str> = job.filters.iter().map(|filter| filter.operand()).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [
        (&operands, Type::TEXT_ARRAY),
        (&job.values, Type::TEXT_ARRAY),
    ];
    let begin = statement::begin(job.timeout);
    let (begun, rows, _) = tokio::join!(
        biased;
        client.batch_execute(&begin),
        client.query_typed(&text, &parameters),
        client.batch_execute("rollback"),
    );
    begun?;
    let rows = rows?;
    rows.first()
        .map_or_else(|| Ok(Vec::new()), |row| row.try_get(0))
}

/// Runs futures together. They are polled in their order, so that what they send at their first poll keeps it.
pub(super) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_over = true;
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => is_over = false,
                }
            }
        }
        if is_over {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
