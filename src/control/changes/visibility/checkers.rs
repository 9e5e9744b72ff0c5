//! Many questions, answered by a few connections within a deadline.
//!
//! What comes in: [`Check`]s. What goes out: their [`Verdict`]s. What always holds: connections take chunks one after the other, those that
//! failed last and those that are slow behind them, so that what is slow or broken holds up no more than its own connection; nobody waits
//! longer than [`limits::VISIBILITY_TIMEOUT`] for the next answer. Deliberately absent: memory of verdicts, which are true for a moment;
//! what is remembered is who was [slow](super::slow).

use super::ask::ask;
use super::call::{Call, kind};
use super::connections::{Connections, Lease};
use super::slow::Slow;
use super::{Check, Measures, Verdict};
use crate::control::clock;
use crate::control::database::Settings;
use crate::control::supervise::panic_text;
use crate::limits;
use std::rc::Rc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Asks a tenant's database. Needs a `LocalSet`.
pub struct Checkers {
    connections: Rc<Connections>,
    measures: Rc<Measures>,
    slow: Slow,
}

impl std::fmt::Debug for Checkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkers")
            .field("connections_max", &self.connections.max())
            .field("measures", &self.measures)
            .finish()
    }
}

/// How a call has ended.
#[derive(Debug, Eq, PartialEq)]
enum End {
    /// Everything was asked, or nobody is left who would; then for this reason.
    Asked(Option<String>),
    /// All its time was up.
    Late,
    /// There was no answer for too long.
    Stalled,
    /// Nobody can be asked.
    Away(Rc<str>),
}

impl Checkers {
    /// Opens no connection before there is a question, and never more than `connections_max`, at least one. What it does is added to
    /// `measures`.
    #[must_use]
    pub fn new(settings: Rc<Settings>, connections_max: usize, measures: Rc<Measures>) -> Self {
        let connections = Connections::new(settings, connections_max, Rc::clone(&measures));
        Self {
            connections: Rc::new(connections),
            measures,
            slow: Slow::default(),
        }
    }

    /// What it and others before it have done so far.
    #[must_use]
    pub fn measures(&self) -> &Rc<Measures> {
        &self.measures
    }

    /// A verdict for each key of each check, in their order: [`limits::VISIBILITY_TIMEOUT`] after the last answer at the latest, and at
    /// `deadline`. What may be expected of so many checks is [`time_max`](super::time_max).
    pub async fn visible_until(&self, checks: Vec<Check>, deadline: Instant) -> Vec<Vec<Verdict>> {
        let begun = clock::now();
        let budgets = checks
            .iter()
            .map(|check| self.slow.budget(check, begun))
            .collect();
        let call = Rc::new(Call::new(checks, budgets, begun));
        let mut workers = JoinSet::new();
        for _ in 0..call.unfinished().min(self.connections.max()) {
            let (call, connections) = (Rc::clone(&call), Rc::clone(&self.connections));
            workers.spawn_local(work(call, connections, Rc::clone(&self.measures)));
        }
        let failure = || self.connections.failure();
        let end = wait(&call, &mut workers, deadline, failure).await;
        // Whoever still asks is ended with its connection: see `Lease`.
        drop(workers);
        if end == End::Stalled {
            call.note_stalled();
        }
        self.remember(&call, &end);
        let verdicts = call.verdicts(|check| match &end {
            End::Away(failure) => Verdict::Unanswered(Rc::clone(failure)),
            End::Stalled if !call.is_late(check) && call.budgets[check].is_none() => {
                Verdict::Unanswered("others took too long".into())
            }
            End::Stalled | End::Late => Verdict::Lost("there was no answer in time".into()),
            End::Asked(Some(reason)) => Verdict::Lost(reason.as_str().into()),
            End::Asked(None) => Verdict::Lost("it has taken too long before".into()),
        });
        Measures::add(&self.measures.calls, 1);
        let time = usize::try_from(begun.elapsed().as_micros()).unwrap_or(usize::MAX);
        Measures::add(&self.measures.time_us, time);
        verdicts
    }

    /// Notes who was slow, and who is no more.
    fn remember(&self, call: &Call, end: &End) {
        let now = clock::now();
        // What was held up by those of another table is asked again as if nothing had been.
        let late_kinds = call.late_kinds();
        for (number, check) in call.checks.iter().enumerate() {
            if call.is_late(number) {
                self.slow.late(check, now);
                continue;
            }
            let is_slow = call.budgets[number].is_some();
            if !is_slow && *end != End::Stalled {
                continue;
            }
            let (is_open, is_answered) = call.progress(number);
            if is_slow && is_answered {
                self.slow.in_time(check);
            } else if !is_slow && is_open && late_kinds.contains(&kind(check)) {
                self.slow.held_up(check, now);
            }
        }
    }
}

/// Waits until all is asked, or there is no use in waiting.
async fn wait(
    call: &Call,
    workers: &mut JoinSet<()>,
    deadline: Instant,
    failure: impl Fn() -> Option<Rc<str>>,
) -> End {
    let mut panic = None;
    while call.unfinished() > 0 {
        let now = clock::now();
        let silent = now.saturating_duration_since(call.answered_at());
        let failure = failure();
        if now >= deadline
            || silent >= limits::VISIBILITY_TIMEOUT
            || (failure.is_some() && silent >= limits::VISIBILITY_AWAY_TIMEOUT)
        {
            return match failure {
                Some(failure) => End::Away(failure),
                None if silent >= limits::VISIBILITY_TIMEOUT => End::Stalled,
                None => End::Late,
            };
        }
        // Connections come and go without a word to this task.
        let wake = deadline.min(now + limits::VISIBILITY_AWAY_TIMEOUT / 4);
        tokio::select! {
            () = call.finished.notified() => {}
            worker = workers.join_next() => match worker {
                Some(Ok(())) => {}
                Some(Err(error)) => panic = error.try_into_panic().ok().map(|panic| panic_text(&*panic)).or(panic),
                None => return End::Asked(Some(match panic {
                    Some(text) => format!("the server failed to ask: {text}"),
                    None => "it was not asked".to_owned(),
                })),
            },
            () = sleep_until(wake) => {}
        }
    }
    End::Asked(None)
}

/// Takes chunks as long as there are any.
async fn work(call: Rc<Call>, connections: Rc<Connections>, measures: Rc<Measures>) {
    let worker = call.worker();
    while call.is_waiting() {
        let mut lease: Lease = connections.take().await;
        while lease.is_open() {
            let Some(chunk) = call.next(worker, clock::now()) else {
                return;
            };
            let tell = |entry: &_, outcome: &_| {
                call.note(worker, &chunk, entry, outcome, clock::now());
            };
            let outcomes = ask(lease.begin(), &call.checks, &chunk, &measures, tell).await;
            lease.done();
            call.settle(worker, &chunk, &outcomes, &measures);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::changes::catalog::{KeyPart, TableNow};
    use std::time::Duration;

    fn call() -> Call {
        let part = KeyPart {
            column: "id".into(),
            type_sql: "pg_catalog.int4".into(),
            equality_sql: "operator(pg_catalog.=)".into(),
            is_leakproof: true,
        };
        let table = TableNow {
            key: vec![part],
            ..TableNow::default()
        };
        let check = Check {
            table: Rc::new(table),
            role: "anon".into(),
            claims: "{}".into(),
            keys: [["1".into()].into()].into(),
        };
        Call::new(vec![check], vec![None], clock::now())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    #[test]
    fn worker_that_panics_is_the_reason() {
        let end = block_on(async {
            let (call, mut workers) = (call(), JoinSet::new());
            workers.spawn_local(async { panic!("its fault") });
            let deadline = clock::now() + Duration::from_secs(60);
            wait(&call, &mut workers, deadline, || None).await
        });
        let reason = "the server failed to ask: its fault".to_owned();
        assert_eq!(end, End::Asked(Some(reason)));
    }

    #[test]
    fn nobody_is_waited_for_long_who_is_away() {
        let began = clock::now();
        let end = block_on(async {
            let (call, mut workers) = (call(), JoinSet::new());
            workers.spawn_local(std::future::pending());
            let deadline = clock::now() + Duration::from_secs(60);
            wait(&call, &mut workers, deadline, || Some("away".into())).await
        });
        assert_eq!(end, End::Away("away".into()));
        assert!(clock::now() < began + limits::VISIBILITY_TIMEOUT / 2);
    }
}
