//! Many questions, answered by a few connections within a deadline.
//!
//! What comes in: [`Check`]s. What goes out: their [`Verdict`]s. What always holds: connections take chunks one after the other, those that
//! failed last, so that what is slow or broken holds up no more than its own connection; nothing takes longer than
//! [`limits::VISIBILITY_TIMEOUT`]. Deliberately absent: memory of verdicts, which are true for a moment.

use super::ask::{Outcome, ask};
use super::chunk::{Chunk, Entry, cut};
use super::connections::{Connections, Lease};
use super::{Check, Measures, Verdict};
use crate::control::clock;
use crate::control::database::Settings;
use crate::limits;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Asks a tenant's database. Needs a `LocalSet`.
pub struct Checkers {
    connections: Rc<Connections>,
    measures: Rc<Measures>,
}

impl std::fmt::Debug for Checkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkers")
            .field("connections_max", &self.connections.max())
            .field("measures", &self.measures)
            .finish()
    }
}

/// A batch of questions under way.
struct Call {
    checks: Vec<Check>,
    waiting: RefCell<VecDeque<Chunk>>,
    /// Those that wait or are being asked.
    unfinished: Cell<usize>,
    finished: Notify,
    /// None: not known yet.
    verdicts: RefCell<Vec<Vec<Option<Verdict>>>>,
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
        }
    }

    /// What it and others before it have done so far.
    #[must_use]
    pub fn measures(&self) -> &Rc<Measures> {
        &self.measures
    }

    /// A verdict for each key of each check, in their order, after [`limits::VISIBILITY_TIMEOUT`] at the latest.
    pub async fn visible(&self, checks: Vec<Check>) -> Vec<Vec<Verdict>> {
        self.visible_until(checks, clock::now() + limits::VISIBILITY_TIMEOUT)
            .await
    }

    /// The same with another deadline.
    pub async fn visible_until(&self, checks: Vec<Check>, deadline: Instant) -> Vec<Vec<Verdict>> {
        let begun = clock::now();
        let call = Rc::new(Call::new(checks));
        let chunks = call.waiting.borrow().len();
        let mut workers = JoinSet::new();
        for _ in 0..chunks.min(self.connections.max()) {
            let (call, connections) = (Rc::clone(&call), Rc::clone(&self.connections));
            workers.spawn_local(work(call, connections, Rc::clone(&self.measures)));
        }
        let all = async {
            while call.unfinished.get() > 0 {
                tokio::select! {
                    () = call.finished.notified() => {}
                    worker = workers.join_next() => if worker.is_none() { return },
                }
            }
        };
        // Whoever still asks is ended with its connection: see `Lease`.
        let is_late = tokio::time::timeout_at(deadline, all).await.is_err();
        drop(workers);
        let unknown = if !is_late {
            Verdict::Lost("it was not asked".into())
        } else if call.is_asked() {
            Verdict::Lost("there was no answer in time".into())
        } else {
            let failure = self.connections.failure();
            Verdict::Unanswered(failure.unwrap_or_else(|| "there is no connection yet".into()))
        };
        let verdicts = call.verdicts(&unknown);
        self.count(&call.checks, &verdicts, begun);
        verdicts
    }

    fn count(&self, checks: &[Check], verdicts: &[Vec<Verdict>], begun: Instant) {
        let measures = &self.measures;
        let all = verdicts.iter().flatten();
        let is_lost =
            |verdict: &Verdict| matches!(verdict, Verdict::Lost(_) | Verdict::Unanswered(_));
        let lost = all.filter(|verdict| is_lost(verdict));
        Measures::add(&measures.calls, 1);
        Measures::add(&measures.checks, checks.len());
        Measures::add(&measures.keys, verdicts.iter().map(Vec::len).sum());
        Measures::add(&measures.lost, lost.count());
        let time = usize::try_from(begun.elapsed().as_micros()).unwrap_or(usize::MAX);
        Measures::add(&measures.time_us, time);
    }
}

/// Takes chunks as long as there are any.
async fn work(call: Rc<Call>, connections: Rc<Connections>, measures: Rc<Measures>) {
    while call.is_waiting() {
        let mut lease: Lease = connections.take().await;
        while lease.is_open() {
            let Some(chunk) = call.next() else { return };
            let outcomes = ask(lease.begin(), &call.checks, &chunk, &measures).await;
            lease.done();
            call.settle(&chunk, outcomes, &measures);
        }
    }
}

impl Call {
    fn new(checks: Vec<Check>) -> Self {
        let verdicts: Vec<Vec<Option<Verdict>>> = checks
            .iter()
            .map(|check| vec![why_not_asked(check); check.keys.len()])
            .collect();
        let mut chunks = cut(&checks);
        for chunk in &mut chunks {
            chunk
                .entries
                .retain(|entry| why_not_asked(&checks[entry.check]).is_none());
        }
        chunks.retain(|chunk| !chunk.entries.is_empty());
        Self {
            unfinished: Cell::new(chunks.len()),
            waiting: RefCell::new(chunks),
            finished: Notify::new(),
            verdicts: RefCell::new(verdicts),
            checks,
        }
    }

    /// Whether some of it is being asked just now; the rest waits for that, or for connections.
    fn is_asked(&self) -> bool {
        self.unfinished.get() > self.waiting.borrow().len()
    }

    fn is_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    fn next(&self) -> Option<Chunk> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Notes what is known, and what has to be asked once more.
    fn settle(&self, chunk: &Chunk, outcomes: Vec<Outcome>, measures: &Measures) {
        let (mut failed, mut unanswered) = (Vec::new(), Vec::new());
        for (entry, outcome) in chunk.entries.iter().zip(outcomes) {
            match outcome {
                Outcome::Seen(places) => self.note(entry, &places),
                Outcome::Refused(reason) => self.fill(entry, &Verdict::Lost(reason)),
                // For now: what is asked again may find more.
                Outcome::Failed(reason) => {
                    self.fill(entry, &Verdict::Lost(reason));
                    if entry.to - entry.from > 1 {
                        failed.push(*entry);
                    }
                }
                Outcome::Unanswered(reason) => {
                    self.fill(entry, &Verdict::Unanswered(reason));
                    unanswered.push(*entry);
                }
            }
        }
        let mut waiting = self.waiting.borrow_mut();
        let before = waiting.len();
        if !unanswered.is_empty() && chunk.attempts < limits::VISIBILITY_RETRIES_MAX {
            waiting.push_back(chunk.again(unanswered));
        }
        if !failed.is_empty()
            && let Some(halves) = chunk.halves(&failed)
        {
            Measures::add(&measures.bisections, halves.len());
            waiting.extend(halves);
        }
        let more = waiting.len() - before;
        drop(waiting);
        self.unfinished.set(self.unfinished.get() + more - 1);
        if self.unfinished.get() == 0 {
            self.finished.notify_one();
        }
    }

    fn note(&self, entry: &Entry, places: &[usize]) {
        self.fill(entry, &Verdict::No);
        let mut verdicts = self.verdicts.borrow_mut();
        let verdicts = &mut verdicts[entry.check][entry.from..entry.to];
        for place in places {
            if let Some(verdict) = verdicts.get_mut(*place) {
                *verdict = Some(Verdict::Yes);
            }
        }
    }

    fn fill(&self, entry: &Entry, verdict: &Verdict) {
        let mut verdicts = self.verdicts.borrow_mut();
        verdicts[entry.check][entry.from..entry.to].fill(Some(verdict.clone()));
    }

    /// What is known, and `unknown` for the rest.
    fn verdicts(&self, unknown: &Verdict) -> Vec<Vec<Verdict>> {
        let verdicts = self.verdicts.take().into_iter();
        let known = |verdict: Option<Verdict>| verdict.unwrap_or_else(|| unknown.clone());
        verdicts
            .map(|check| check.into_iter().map(known).collect())
            .collect()
    }
}

/// Why there is nothing to ask; none where there is.
fn why_not_asked(check: &Check) -> Option<Verdict> {
    let columns = check.table.key.len();
    let reason = if columns == 0 {
        "the table has no primary key"
    } else if check.keys.iter().any(|key| key.len() != columns) {
        "the primary key has other columns by now"
    } else if check.role.is_empty() || &*check.role == "none" || check.role.contains('\0') {
        // `none` would be the connection's own user.
        "the role may not be taken on"
    } else {
        return None;
    };
    Some(Verdict::Lost(reason.into()))
}
