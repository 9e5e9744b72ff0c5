//! When a stream is started again.
//!
//! What comes in: how streams and attempts ended. What goes out: pauses. What always holds: a stream that broke is started again at
//! once, but not more than [`limits::REPLICATION_QUICK_RESTARTS`] times in a row; other pauses are half random, double with each
//! failure, and stay between the bounds that it was made with (`pauses_double_within_their_bounds`).

use crate::control::database::connect::jittered;
use crate::limits;
use std::time::Duration;

/// See the room's documentation.
#[derive(Debug)]
pub struct Backoff {
    quick_left: u32,
    /// The next pause before it is spread.
    pause: Duration,
    pause_min: Duration,
    pause_max: Duration,
}

impl Backoff {
    /// Nothing has failed yet.
    #[must_use]
    pub fn new(pause_min: Duration, pause_max: Duration) -> Self {
        Self {
            quick_left: limits::REPLICATION_QUICK_RESTARTS,
            // Spread, it is the shortest at least.
            pause: pause_min.saturating_mul(2),
            pause_min,
            pause_max,
        }
    }

    /// A stream that ran for this long has ended. Returns the pause before the next attempt.
    pub fn broke(&mut self, ran: Duration) -> Duration {
        if ran >= limits::REPLICATION_STABLE_AFTER {
            *self = Self::new(self.pause_min, self.pause_max);
        }
        if self.may_hurry() {
            Duration::ZERO
        } else {
            self.failed()
        }
    }

    /// Whether something may be tried at once; that is used up then.
    pub fn may_hurry(&mut self) -> bool {
        let may = self.quick_left > 0;
        self.quick_left = self.quick_left.saturating_sub(u32::from(may));
        may
    }

    /// An attempt has failed. Returns the pause before the next one.
    pub fn failed(&mut self) -> Duration {
        let pause = jittered(self.pause);
        self.pause = self.pause.saturating_mul(2).min(self.pause_max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(limits::REPLICATION_PAUSE_MIN, limits::REPLICATION_PAUSE_MAX)
    }

    #[test]
    fn pauses_double_within_their_bounds() {
        let mut backoff = backoff();
        let pauses: Vec<_> = (0..12).map(|_| backoff.failed()).collect();
        let bounds = limits::REPLICATION_PAUSE_MIN..=limits::REPLICATION_PAUSE_MAX;
        assert!(
            pauses.iter().all(|pause| bounds.contains(pause)),
            "{pauses:?}"
        );
        assert!(pauses[0] <= limits::REPLICATION_PAUSE_MIN * 2);
        assert!(pauses[11] >= limits::REPLICATION_PAUSE_MAX / 2);
    }

    #[test]
    fn broken_stream_is_started_at_once_a_few_times() {
        let mut backoff = backoff();
        let short = Duration::from_secs(1);
        for _ in 0..limits::REPLICATION_QUICK_RESTARTS {
            assert_eq!(backoff.broke(short), Duration::ZERO);
        }
        assert!(backoff.broke(short) >= limits::REPLICATION_PAUSE_MIN);
        assert_eq!(
            backoff.broke(limits::REPLICATION_STABLE_AFTER),
            Duration::ZERO
        );
        assert!(backoff.failed() <= limits::REPLICATION_PAUSE_MIN * 2);
    }
}
