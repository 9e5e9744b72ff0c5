//! How long a batch waits for what follows at once, where row level security is asked about its rows.
//!
//! What comes in: when changes came. What goes out: when the batch may be decided. What always holds: a batch waits for as long as changes
//! follow each other closely, and never longer than [`limits::CHANGES_SETTLING_MAX`] (`a_batch_waits_while_changes_follow_each_other`). The
//! original polls, up to twice a second: an insert that is updated or deleted by the next statement is judged by what has become of the row
//! (spec: postgres-changes 5.3), and clients that rely on it see the same here. Deliberately absent: what row level security does not
//! concern, which waits for nothing.

use crate::limits;
use tokio::time::Instant;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// When the first change of the batch came, and the last one.
    came: Option<(Instant, Instant)>,
    is_waiting: bool,
}

impl Settling {
    /// More changes came.
    pub(super) fn note(&mut self, now: Instant) {
        let (first, _) = self.came.unwrap_or((now, now));
        self.came = Some((first, now));
    }

    /// The batch waits from here on.
    pub(super) fn wait(&mut self) {
        self.is_waiting = true;
    }

    /// It waits no more, for now.
    pub(super) fn end(&mut self) {
        self.is_waiting = false;
    }

    /// Whether the batch waits for more.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Until when a batch of so many changes waits; none when it does not, or not any more.
    pub(super) fn until(&self, changes: usize, now: Instant) -> Option<Instant> {
        let (first, last) = self.came?;
        let until =
            (last + limits::CHANGES_SETTLING_PAUSE).min(first + limits::CHANGES_SETTLING_MAX);
        (changes <= limits::CHANGES_SETTLING_ROWS_MAX && now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::clock;
    use std::time::Duration;

    const PAUSE: Duration = limits::CHANGES_SETTLING_PAUSE;

    #[test]
    fn a_batch_waits_while_changes_follow_each_other() {
        let mut settling = Settling::default();
        let start = clock::now();
        assert_eq!(settling.until(0, start), None);
        settling.note(start);
        assert_eq!(settling.until(1, start), Some(start + PAUSE));
        let second = start + PAUSE / 2;
        settling.note(second);
        assert_eq!(settling.until(2, start + PAUSE), Some(second + PAUSE));
        assert_eq!(settling.until(2, second + PAUSE), None);
        let end = start + limits::CHANGES_SETTLING_MAX;
        let mut now = second;
        while now < end {
            now += PAUSE / 2;
            settling.note(now);
        }
        assert_eq!(settling.until(9, end - Duration::from_millis(1)), Some(end));
        assert_eq!(settling.until(9, end), None);
    }

    #[test]
    fn a_batch_of_many_changes_waits_for_nothing() {
        let mut settling = Settling::default();
        let now = clock::now();
        settling.note(now);
        let max = limits::CHANGES_SETTLING_ROWS_MAX;
        assert!(settling.until(max, now).is_some());
        assert_eq!(settling.until(max + 1, now), None);
    }
}
