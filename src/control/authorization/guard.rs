//! The protection of a tenant's pool: checks that waited in vain for a connection, counted (spec: authorization-rls 4). Subscriptions to row
//! changes have the same (spec: postgres-changes 4.1).
//!
//! What comes in: time-outs, moments. What goes out: whether further checks are refused at once. What always holds: at most as many
//! time-outs are remembered as trip it. Deliberately absent: clocks.

use crate::limits;
use std::collections::VecDeque;
use tokio::time::Instant;

/// The time-outs of one tenant within [`limits::POOL_TIMEOUTS_WINDOW`].
#[derive(Debug, Default)]
pub(in crate::control) struct Timeouts(VecDeque<Instant>);

impl Timeouts {
    /// Remembers one more. True when it is the one that trips.
    pub(in crate::control) fn note(&mut self, now: Instant, pool_size: usize) -> bool {
        let was_tripped = self.are_too_many(now, pool_size);
        if self.0.len() >= pool_size {
            self.0.pop_front();
        }
        self.0.push_back(now);
        !was_tripped && self.are_too_many(now, pool_size)
    }

    /// Whether there are as many as the pool has connections.
    pub(in crate::control) fn are_too_many(&mut self, now: Instant, pool_size: usize) -> bool {
        let is_old = |noted: Instant| now.duration_since(noted) >= limits::POOL_TIMEOUTS_WINDOW;
        while self.0.front().is_some_and(|noted| is_old(*noted)) {
            self.0.pop_front();
        }
        self.0.len() >= pool_size
    }

    /// Whether none is remembered.
    pub(in crate::control) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::clock;
    use std::time::Duration;

    #[test]
    fn as_many_as_connections_trip_it_for_a_window() {
        let start = clock::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut one = Timeouts::default();
        assert!(!one.are_too_many(at(0), 1));
        assert!(one.note(at(0), 1));
        assert!(!one.note(at(1), 1), "it is tripped already");
        assert!(one.are_too_many(at(30), 1));
        assert!(!one.are_too_many(at(31), 1));
        let mut three = Timeouts::default();
        assert_eq!(
            [0, 10, 29].map(|seconds| three.note(at(seconds), 3)),
            [false, false, true]
        );
        assert!(!three.are_too_many(at(30), 3), "the first is old");
        assert!(three.note(at(39), 3));
    }
}
