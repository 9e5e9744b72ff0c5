//! `MAX_CONNECTIONS`: how many upgraded sockets the process has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the upgraded sockets of the whole process, up to `MAX_CONNECTIONS`: one counter, touched when a socket opens and when it ends.
#[derive(Clone, Debug)]
pub struct OpenSockets {
    count: Arc<AtomicUsize>,
    max: usize,
}

impl OpenSockets {
    /// No sockets yet, and at most `max` of them.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            count: Arc::default(),
            max,
        }
    }

    /// Counts one more, unless there are as many as there may be.
    #[must_use]
    pub fn try_add(&self) -> bool {
        let add = |count| (count < self.max).then_some(count + 1);
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    /// Takes one back.
    pub fn remove(&self) {
        let before = self.count.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(
            before > 0,
            "a socket is removed once for each time it was added"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_allowed() {
        let (sockets, of_another_shard) = (OpenSockets::new(2), OpenSockets::new(2));
        assert!(sockets.try_add() && sockets.clone().try_add());
        assert!(!sockets.try_add());
        assert!(
            of_another_shard.try_add(),
            "another counter counts for itself"
        );
        sockets.remove();
        assert!(sockets.try_add());
    }
}
