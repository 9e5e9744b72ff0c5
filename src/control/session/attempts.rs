//! How often starting failed of late: what keeps clients that rejoin at once from hammering a database that is down.
//!
//! What comes in: failures, and moments. What goes out: whether the next attempt may be made. What always holds: below
//! [`limits::DATABASE_FAILURES_MAX`] failures within [`limits::DATABASE_FAILURES_WINDOW_SECONDS`] ticks of a second nothing is
//! blocked, from there on everything is until the sum falls (spec: tenant-database 2.1).

use crate::limits;
use std::time::Duration;

const TICKS: usize = limits::DATABASE_FAILURES_WINDOW_SECONDS;

/// The failures of one tenant's database. Moments are times since one that stays the same.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Failures by tick, each at its number modulo the window.
    buckets: [u32; TICKS],
    /// The tick that was counted last.
    tick: u64,
    is_blocked: bool,
}

impl Attempts {
    /// Counts a failure. True when it is the one that blocks what follows.
    pub(super) fn fail(&mut self, now: Duration) -> bool {
        let was_blocked = self.is_blocked(now);
        self.buckets[slot(self.tick)] += 1;
        self.is_blocked = self.sum() >= limits::DATABASE_FAILURES_MAX;
        self.is_blocked && !was_blocked
    }

    /// Whether no attempt may be made now.
    pub(super) fn is_blocked(&mut self, now: Duration) -> bool {
        let tick = now.as_secs();
        let passed = tick.saturating_sub(self.tick);
        for gone in 0..passed.min(TICKS as u64) {
            self.buckets[slot(tick - gone)] = 0;
        }
        self.tick = self.tick.max(tick);
        self.is_blocked = self.is_blocked && self.sum() >= limits::DATABASE_FAILURES_MAX;
        self.is_blocked
    }

    fn sum(&self) -> u32 {
        self.buckets.iter().sum()
    }
}

fn slot(tick: u64) -> usize {
    usize::try_from(tick % TICKS as u64).expect("less than the number of buckets")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Failures at these tenths of a second; then whether an attempt at `at` is blocked.
    fn check(failures: &[u64], at: u64, expected: bool) {
        let mut attempts = Attempts::default();
        let moment = |tenths: u64| Duration::from_millis(tenths * 100);
        let trips = failures
            .iter()
            .filter(|&&tenths| attempts.fail(moment(tenths)))
            .count();
        assert!(trips <= 1 || failures.len() > 5, "{failures:?}");
        assert_eq!(
            attempts.is_blocked(moment(at)),
            expected,
            "{failures:?} at {at}"
        );
    }

    #[test]
    fn third_failure_within_five_ticks_blocks_until_the_sum_falls() {
        check(&[], 0, false);
        check(&[0, 1], 1, false);
        check(&[0, 1, 2], 2, true);
        check(&[0, 1, 2], 49, true);
        check(&[0, 1, 2], 50, false);
        check(&[0, 20, 40], 40, true);
        // The first failure leaves the window with its tick, whole.
        check(&[9, 20, 40], 49, true);
        check(&[9, 20, 40], 50, false);
        check(&[0, 20, 50], 50, false);
        check(&[0, 0, 0, 0, 0, 0], 1_000_000, false);
    }

    #[test]
    fn each_block_is_told_once() {
        let mut attempts = Attempts::default();
        let second = Duration::from_secs;
        let told: Vec<_> = [0, 0, 0, 0, 1, 20, 20, 20, 20]
            .into_iter()
            .map(|at| attempts.fail(second(at)))
            .collect();
        assert_eq!(
            told,
            [false, false, true, false, false, false, false, true, false]
        );
    }

    #[test]
    fn a_clock_that_stands_or_jumps_harms_nothing() {
        let mut attempts = Attempts::default();
        attempts.fail(Duration::from_secs(100));
        attempts.fail(Duration::from_secs(99));
        assert!(attempts.fail(Duration::from_secs(100)));
        assert!(!attempts.is_blocked(Duration::from_secs(u64::MAX)));
    }
}
