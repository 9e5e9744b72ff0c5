//! Whose answers have taken too long.
//!
//! What comes in: how the questions of a batch have ended. What goes out: how long each may take in the next one. What always holds: what
//! one user's policies take shortens nobody else's time, but for one batch of those that stood behind him; whoever answers in time is soon
//! given all of it again, and so is everybody after [`limits::VISIBILITY_SLOW_LIFETIME`]. Deliberately absent: verdicts.

use super::Check;
use crate::limits;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Slow(RefCell<FxHashMap<Name, Time>>);

/// Table, role and claims.
type Name = (u32, Rc<str>, Rc<str>);

#[derive(Debug)]
struct Time {
    budget: Duration,
    since: Instant,
}

impl Slow {
    /// How long a check may take; none where nothing is known against it.
    pub(super) fn budget(&self, check: &Check, now: Instant) -> Option<Duration> {
        let known = self.0.borrow();
        if known.is_empty() {
            return None;
        }
        let time = known.get(&name(check))?;
        (now < time.since + limits::VISIBILITY_SLOW_LIFETIME).then_some(time.budget)
    }

    /// It has taken too long.
    pub(super) fn late(&self, check: &Check, now: Instant) {
        self.note(check, limits::VISIBILITY_SLOW_TIMEOUT, now);
    }

    /// It was not its turn, because others have taken too long. It comes before them the next time.
    pub(super) fn held_up(&self, check: &Check, now: Instant) {
        self.note(check, limits::VISIBILITY_SLOW_TIMEOUT * 2, now);
    }

    /// It was answered within its budget.
    pub(super) fn in_time(&self, check: &Check) {
        let mut known = self.0.borrow_mut();
        let name = name(check);
        if let Some(time) = known.get_mut(&name) {
            time.budget *= 2;
            if time.budget >= limits::VISIBILITY_STATEMENT_TIMEOUT {
                known.remove(&name);
            }
        }
    }

    fn note(&self, check: &Check, budget: Duration, now: Instant) {
        let mut known = self.0.borrow_mut();
        if known.len() >= limits::VISIBILITY_SLOW_MAX {
            known.retain(|_, time| now < time.since + limits::VISIBILITY_SLOW_LIFETIME);
        }
        let name = name(check);
        // When there is no room even so, it takes its full time again.
        if known.len() < limits::VISIBILITY_SLOW_MAX || known.contains_key(&name) {
            let since = match known.get(&name) {
                Some(time) if now < time.since + limits::VISIBILITY_SLOW_LIFETIME => time.since,
                _ => now,
            };
            known.insert(name, Time { budget, since });
        }
    }
}

fn name(check: &Check) -> Name {
    (
        check.table.oid,
        Rc::clone(&check.role),
        Rc::clone(&check.claims),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::changes::catalog::TableNow;
    use crate::control::clock;

    fn check(claims: &str) -> Check {
        Check {
            table: Rc::new(TableNow::default()),
            role: "anon".into(),
            claims: claims.into(),
            keys: [].into(),
        }
    }

    #[test]
    fn who_answers_in_time_is_soon_given_all_of_it() {
        let (slow, now) = (Slow::default(), clock::now());
        let (one, other) = (check("1"), check("2"));
        slow.late(&one, now);
        slow.held_up(&other, now);
        let budgets = || [&one, &other].map(|check| slow.budget(check, now));
        let short = limits::VISIBILITY_SLOW_TIMEOUT;
        assert_eq!(budgets(), [Some(short), Some(short * 2)]);
        assert_eq!(slow.budget(&check("3"), now), None);
        slow.in_time(&one);
        slow.in_time(&other);
        assert_eq!(budgets(), [Some(short * 2), Some(short * 4)]);
        slow.in_time(&one);
        slow.in_time(&other);
        slow.in_time(&one);
        assert_eq!(budgets(), [None, None]);
    }

    #[test]
    fn what_is_known_ends_and_is_bounded() {
        let (slow, now) = (Slow::default(), clock::now());
        for number in 0..limits::VISIBILITY_SLOW_MAX + 1 {
            slow.late(&check(&number.to_string()), now);
        }
        let last = check(&limits::VISIBILITY_SLOW_MAX.to_string());
        assert_eq!(slow.0.borrow().len(), limits::VISIBILITY_SLOW_MAX);
        assert_eq!(slow.budget(&last, now), None);
        let later = now + limits::VISIBILITY_SLOW_LIFETIME;
        assert_eq!(slow.budget(&check("0"), later), None);
        slow.late(&last, later);
        assert!(slow.budget(&last, later).is_some());
        assert_eq!(slow.0.borrow().len(), 1);
    }
}
