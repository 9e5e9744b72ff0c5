//! A batch of questions under way.
//!
//! What comes in: [`Check`]s, and outcomes of their entries. What goes out: chunks in the order in which they are to be asked, and verdicts.
//! What always holds: what has failed or is known to be slow comes behind everything else; looking for what is slow ends with the time that
//! it has together. Deliberately absent: who asks, and what is remembered of it.

use super::ask::Outcome;
use super::chunk::{Chunk, Entry, cut};
use super::{Check, Measures, Verdict};
use crate::limits;
use rustc_hash::FxHashSet;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// See the module's documentation.
pub(super) struct Call {
    pub checks: Vec<Check>,
    /// Those of them that may take less than others.
    pub budgets: Vec<Option<Duration>>,
    waiting: RefCell<VecDeque<Chunk>>,
    slow: RefCell<VecDeque<Chunk>>,
    /// Until when what is slow is asked; none before it begins.
    slow_until: Cell<Option<Instant>>,
    /// What each worker waits for.
    under_way: RefCell<Vec<Option<Entry>>>,
    /// Those that wait or are being asked.
    unfinished: Cell<usize>,
    pub finished: Notify,
    /// When something was answered last.
    answered_at: Cell<Instant>,
    /// None: not known yet.
    verdicts: RefCell<Vec<Vec<Option<Verdict>>>>,
    /// Checks that have taken too long.
    late: RefCell<FxHashSet<usize>>,
}

impl Call {
    /// `budgets` has one for each check.
    pub(super) fn new(checks: Vec<Check>, budgets: Vec<Option<Duration>>, now: Instant) -> Self {
        let verdicts: Vec<Vec<Option<Verdict>>> = checks
            .iter()
            .map(|check| vec![why_not_asked(check); check.keys.len()])
            .collect();
        let mut chunks = cut(&checks, &budgets);
        for chunk in &mut chunks {
            chunk
                .entries
                .retain(|entry| why_not_asked(&checks[entry.check]).is_none());
        }
        chunks.retain(|chunk| !chunk.entries.is_empty());
        let (slow, waiting): (VecDeque<_>, _) = chunks.into_iter().partition(|chunk| chunk.is_slow);
        Self {
            unfinished: Cell::new(waiting.len() + slow.len()),
            waiting: RefCell::new(waiting),
            slow: RefCell::new(slow),
            slow_until: Cell::new(None),
            under_way: RefCell::default(),
            finished: Notify::new(),
            answered_at: Cell::new(now),
            verdicts: RefCell::new(verdicts),
            late: RefCell::default(),
            checks,
            budgets,
        }
    }

    /// Chunks that wait or are being asked.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.get()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty() || !self.slow.borrow().is_empty()
    }

    /// When something was answered last, or the call began.
    pub(super) fn answered_at(&self) -> Instant {
        self.answered_at.get()
    }

    /// Another worker's number.
    pub(super) fn worker(&self) -> usize {
        let mut under_way = self.under_way.borrow_mut();
        under_way.push(None);
        under_way.len() - 1
    }

    /// What a worker is to ask now.
    pub(super) fn next(&self, worker: usize, now: Instant) -> Option<Chunk> {
        let waiting = self.waiting.borrow_mut().pop_front();
        let chunk = waiting.or_else(|| self.next_slow(now))?;
        self.under_way.borrow_mut()[worker] = chunk.entries.first().copied();
        Some(chunk)
    }

    fn next_slow(&self, now: Instant) -> Option<Chunk> {
        let mut slow = self.slow.borrow_mut();
        if slow.is_empty() {
            return None;
        }
        let until = self.slow_until.get().unwrap_or_else(|| {
            let is_sought = slow
                .iter()
                .any(|chunk| self.budgets[chunk.entries[0].check].is_none());
            let sought = is_sought.then_some(limits::VISIBILITY_HALVES_TIMEOUT);
            let budgets = self.budgets.iter().copied().flatten();
            now + budgets.chain(sought).max().unwrap_or_default()
        });
        self.slow_until.set(Some(until));
        let left = until.saturating_duration_since(now);
        if left < Duration::from_millis(1) {
            let count = slow.drain(..).count();
            self.finish(count);
            return None;
        }
        let mut chunk = slow.pop_front()?;
        chunk.timeout = chunk.timeout.min(left);
        Some(chunk)
    }

    fn finish(&self, count: usize) {
        self.unfinished.set(self.unfinished.get() - count);
        if self.unfinished.get() == 0 {
            self.finished.notify_one();
        }
    }

    /// Notes what came of an entry. What has to be asked once more is [`Call::settle`]'s affair.
    pub(super) fn note(
        &self,
        worker: usize,
        chunk: &Chunk,
        entry: &Entry,
        outcome: &Outcome,
        now: Instant,
    ) {
        let mut entries = chunk.entries.iter().copied();
        entries.find(|other| other == entry);
        self.under_way.borrow_mut()[worker] = entries.next();
        let verdict = match outcome {
            Outcome::Seen(_) => Verdict::No,
            Outcome::Refused(reason) | Outcome::Failed(reason) => Verdict::Lost(Rc::clone(reason)),
            Outcome::Late(reason) => {
                self.late.borrow_mut().insert(entry.check);
                Verdict::Lost(Rc::clone(reason))
            }
            Outcome::Unanswered(reason) => Verdict::Unanswered(Rc::clone(reason)),
        };
        let mut verdicts = self.verdicts.borrow_mut();
        let verdicts = &mut verdicts[entry.check][entry.from..entry.to];
        verdicts.fill(Some(verdict));
        if let Outcome::Seen(places) = outcome {
            self.answered_at.set(now);
            for place in places {
                if let Some(verdict) = verdicts.get_mut(*place) {
                    *verdict = Some(Verdict::Yes);
                }
            }
        }
    }

    /// The chunk is done: what has to be asked once more waits from here on. It may find more than is noted for now.
    pub(super) fn settle(
        &self,
        worker: usize,
        chunk: &Chunk,
        outcomes: &[Outcome],
        measures: &Measures,
    ) {
        self.under_way.borrow_mut()[worker] = None;
        let (mut failed, mut late, mut unanswered) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, outcome) in chunk.entries.iter().zip(outcomes) {
            let is_more = entry.to - entry.from > 1;
            match outcome {
                Outcome::Failed(_) if is_more => failed.push(*entry),
                Outcome::Late(_) if is_more => late.push(*entry),
                Outcome::Unanswered(_) => unanswered.push(*entry),
                _ => {}
            }
        }
        let mut more = Vec::new();
        if !unanswered.is_empty() && chunk.attempts < limits::VISIBILITY_RETRIES_MAX {
            more.push(chunk.again(unanswered));
        }
        let halves = (!failed.is_empty()).then(|| chunk.halves(&failed));
        let slow_halves = (!late.is_empty()).then(|| chunk.slow_halves(&late));
        for halves in [halves, slow_halves].into_iter().flatten().flatten() {
            Measures::add(&measures.bisections, halves.len());
            more.extend(halves);
        }
        self.unfinished.set(self.unfinished.get() + more.len());
        for chunk in more {
            let queue = if chunk.is_slow {
                &self.slow
            } else {
                &self.waiting
            };
            queue.borrow_mut().push_back(chunk);
        }
        self.finish(1);
    }

    /// The checks of whom workers wait for an answer now are late.
    pub(super) fn note_stalled(&self) {
        let under_way = self.under_way.borrow();
        let stalled = under_way.iter().flatten().map(|entry| entry.check);
        self.late.borrow_mut().extend(stalled);
    }

    /// Tables and roles of checks that have taken too long.
    pub(super) fn late_kinds(&self) -> FxHashSet<(u32, Rc<str>)> {
        let late = self.late.borrow();
        let kind = |number: &usize| kind(&self.checks[*number]);
        late.iter().map(kind).collect()
    }

    /// Whether a check has taken too long.
    pub(super) fn is_late(&self, check: usize) -> bool {
        self.late.borrow().contains(&check)
    }

    /// Whether something of a check is not known yet, and whether all of it is.
    pub(super) fn progress(&self, check: usize) -> (bool, bool) {
        let verdicts = self.verdicts.borrow();
        let mut verdicts = verdicts[check].iter();
        let is_answer =
            |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Yes | Verdict::No));
        (
            verdicts.clone().any(Option::is_none),
            verdicts.all(is_answer),
        )
    }

    /// What is known, and for the rest what `unknown` says of a check.
    pub(super) fn verdicts(&self, unknown: impl Fn(usize) -> Verdict) -> Vec<Vec<Verdict>> {
        let verdicts = self.verdicts.take().into_iter().enumerate();
        let check = |(number, check): (usize, Vec<Option<Verdict>>)| {
            let known = |verdict: Option<Verdict>| verdict.unwrap_or_else(|| unknown(number));
            check.into_iter().map(known).collect()
        };
        verdicts.map(check).collect()
    }
}

/// How long so many checks with so many keys may take, all together, however steadily answers come.
#[must_use]
pub fn time_max(checks: usize, keys: usize) -> Duration {
    let weight = checks * limits::VISIBILITY_QUERY_WEIGHT + keys;
    let weight = u32::try_from(weight).unwrap_or(u32::MAX);
    limits::VISIBILITY_TIME_MAX + limits::VISIBILITY_KEY_TIME * weight
}

/// Table and role.
pub(super) fn kind(check: &Check) -> (u32, Rc<str>) {
    (check.table.oid, Rc::clone(&check.role))
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
