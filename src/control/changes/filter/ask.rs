//! Questions that only PostgreSQL can answer, for many values at once.
//!
//! What comes in: filters, each with texts of its column's values. What goes out: whether each of them passes, and how many nobody could
//! say it of. What always holds: equal questions are asked once; filters of one kind with the same values are one statement; each
//! statement has a transaction of its own that is rolled back, and all of a round are enqueued at once; an error is looked for until its
//! filter and value are found, and is the answer no there and nowhere else (`an_error_is_of_one_value_alone`); a filter that takes too long
//! costs its own answers, and is asked last from then on (`a_slow_filter_costs_others_nothing_twice`); nobody waits longer than
//! [`limits::FILTER_ASK_TIMEOUT`] and [`limits::FILTER_SLOW_TIMEOUT`] for the database's answers.

use super::Filter;
use crate::control::clock;
use crate::control::database::statement;
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// Asks one database, and remembers which filters have taken too long there.
#[derive(Debug, Default)]
pub struct Asker {
    /// Since when.
    slow: RefCell<FxHashMap<Rc<Filter>, Instant>>,
}

/// What came of questions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Passed {
    /// Whether each value of each question passes, in their order. What fails, takes too long or was not reached does not pass.
    pub passed: Vec<Vec<bool>>,
    /// How many of the values that do not pass might do so: nobody knows.
    pub unknown: u64,
}

/// Filters with texts of their columns' values.
type Questions = [(Rc<Filter>, Vec<Box<str>>)];

impl Asker {
    /// Asks.
    ///
    /// # Errors
    ///
    /// Those of the connection: nothing was answered.
    pub async fn ask(&self, client: &Client, questions: &Questions) -> Result<Passed, Error> {
        let now = clock::now();
        self.slow
            .borrow_mut()
            .retain(|_, since| now < *since + limits::FILTER_SLOW_LIFETIME);
        let (slow, quick) = jobs(questions, &self.slow.borrow());
        let mut answers = Answers::default();
        let until = now + limits::FILTER_ASK_TIMEOUT;
        self.work(client, quick, until, &mut answers).await?;
        let until = clock::now() + limits::FILTER_SLOW_TIMEOUT;
        self.work(client, slow, until, &mut answers).await?;
        self.remember(questions, &answers.late);
        Ok(answers.of(questions))
    }

    /// Does what can be done until then.
    async fn work<'a>(
        &self,
        client: &Client,
        mut waiting: VecDeque<Job<'a>>,
        until: Instant,
        answers: &mut Answers<'a>,
    ) -> Result<(), Error> {
        loop {
            let round = round(&mut waiting, until.saturating_duration_since(clock::now()));
            if round.is_empty() {
                return Ok(());
            }
            let outcomes = all(round.iter().map(|job| run(client, job)).collect()).await;
            for (job, outcome) in round.into_iter().zip(outcomes) {
                match outcome {
                    Ok(answered) => answers.note(&job, answered),
                    Err(error) => waiting.extend(job.after(error, answers)?),
                }
            }
        }
    }

    fn remember(&self, questions: &Questions, late: &FxHashSet<&Filter>) {
        let mut slow = self.slow.borrow_mut();
        let now = clock::now();
        for (filter, _) in questions {
            // When there is no room, it is asked with the others again.
            if late.contains(&**filter)
                && (slow.len() < limits::FILTER_SLOW_MAX || slow.contains_key(filter))
            {
                slow.entry(Rc::clone(filter)).or_insert(now);
            }
        }
    }
}

/// The statements that fit into the time that is left; none when there is no time, or nothing to do.
fn round<'a>(waiting: &mut VecDeque<Job<'a>>, left: Duration) -> Vec<Job<'a>> {
    let (mut round, mut time) = (Vec::new(), Duration::ZERO);
    if left < Duration::from_millis(1) {
        return round;
    }
    while round.len() < limits::FILTER_STATEMENTS_AT_ONCE
        && let Some(job) = waiting.front()
        && (round.is_empty() || time + job.timeout <= left)
        && let Some(mut job) = waiting.pop_front()
    {
        time += job.timeout;
        job.allowed = job.timeout.min(left);
        round.push(job);
    }
    round
}

/// What was said of filters and values.
#[derive(Default)]
struct Answers<'a> {
    known: FxHashMap<(&'a Filter, &'a str), bool>,
    /// Filters that have taken too long alone.
    late: FxHashSet<&'a Filter>,
}

impl<'a> Answers<'a> {
    fn note(&mut self, job: &Job<'a>, answered: Vec<bool>) {
        let pairs = job.filters.iter().flat_map(|filter| {
            let values = job.values.iter();
            values.map(move |value| (*filter, *value))
        });
        self.known.extend(pairs.zip(answered));
    }

    fn of(&self, questions: &Questions) -> Passed {
        let mut unknown = 0;
        let passed = questions.iter().map(|(filter, values)| {
            let passes = values.iter().map(|value| {
                let answer = self.known.get(&(&**filter, filter.asked_as(value)));
                unknown += u64::from(answer.is_none());
                answer == Some(&true)
            });
            passes.collect()
        });
        Passed {
            passed: passed.collect(),
            unknown,
        }
    }
}

/// One statement: each of these filters, which have the same question, with each of these values.
struct Job<'a> {
    filters: Vec<&'a Filter>,
    values: Vec<&'a str>,
    /// How long it may take.
    timeout: Duration,
    /// The same, or what was left of all time.
    allowed: Duration,
}

/// As few statements as there can be: one for each filter that is known to be slow, and those of all others.
fn jobs<'a>(
    questions: &'a Questions,
    slow: &FxHashMap<Rc<Filter>, Instant>,
) -> (VecDeque<Job<'a>>, VecDeque<Job<'a>>) {
    let mut values_of: FxHashMap<&Filter, FxHashSet<&str>> = FxHashMap::default();
    for (filter, values) in questions {
        let texts = values.iter().map(|value| filter.asked_as(value));
        values_of.entry(filter).or_default().extend(texts);
    }
    let mut alone = VecDeque::new();
    let mut alike: FxHashMap<(&str, Vec<&str>), Vec<&Filter>> = FxHashMap::default();
    for (filter, values) in values_of {
        let mut values: Vec<&str> = values.into_iter().collect();
        values.sort_unstable();
        if slow.contains_key(filter) {
            alone.push_back(Job::new(vec![filter], values, limits::FILTER_ALONE_TIMEOUT));
        } else {
            let group = alike.entry((&*filter.question, values)).or_default();
            group.push(filter);
        }
    }
    let mut together = VecDeque::new();
    for ((_, values), filters) in alike {
        for values in values.chunks(limits::FILTER_PAIRS_MAX) {
            for filters in filters.chunks((limits::FILTER_PAIRS_MAX / values.len()).max(1)) {
                let (filters, values) = (filters.to_vec(), values.to_vec());
                together.push_back(Job::new(filters, values, limits::FILTER_STATEMENT_TIMEOUT));
            }
        }
    }
    (alone, together)
}

impl<'a> Job<'a> {
    fn new(filters: Vec<&'a Filter>, values: Vec<&'a str>, timeout: Duration) -> Self {
        Self {
            filters,
            values,
            timeout,
            allowed: timeout,
        }
    }

    /// What is still to be asked after `error`; the error itself when it is the connection's.
    fn after(mut self, error: Error, answers: &mut Answers<'a>) -> Result<Vec<Self>, Error> {
        let Some(code) = error.code().filter(|code| !is_of_connection(code)) else {
            return Err(error);
        };
        if *code == SqlState::QUERY_CANCELED {
            // One of the filters takes long: the others are given their time, and it is not given another one.
            if self.timeout == limits::FILTER_ALONE_TIMEOUT {
                // Of one that had but the rest of all time nothing is known.
                if self.allowed == self.timeout {
                    answers.late.extend(self.filters);
                }
                return Ok(Vec::new());
            }
            let alone = |filter| {
                Self::new(
                    vec![filter],
                    self.values.clone(),
                    limits::FILTER_ALONE_TIMEOUT,
                )
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
        let other = Self::new(filters, values, self.timeout);
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
    let begin = statement::begin(job.allowed);
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
