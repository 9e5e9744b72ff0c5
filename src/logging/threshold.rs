//! `LOG_LEVEL`, which may change while the server runs.

use crate::error::Level;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The least bad level that is written. Clones are the same one: whoever sets it sets it for all threads, which see it a moment later.
#[derive(Clone, Debug)]
pub struct Threshold(Arc<AtomicU8>);

impl Threshold {
    /// Lines of `level` and worse ones are written.
    #[must_use]
    pub fn new(level: Level) -> Self {
        Self(Arc::new(AtomicU8::new(level as u8)))
    }

    /// Changes it.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> Level {
        Level::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// Whether a line of this level is written.
    #[must_use]
    pub fn lets_pass(&self, level: Level) -> bool {
        level <= self.get()
    }
}

impl From<Level> for Threshold {
    fn from(level: Level) -> Self {
        Self::new(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_the_same_one() {
        for level in Level::ALL {
            assert_eq!(Threshold::new(level).get(), level);
        }
        let threshold = Threshold::new(Level::Info);
        let of_another_thread = threshold.clone();
        assert!(of_another_thread.lets_pass(Level::Info));
        assert!(!of_another_thread.lets_pass(Level::Debug));
        threshold.set(Level::Error);
        assert!(!of_another_thread.lets_pass(Level::Warning));
        assert!(of_another_thread.lets_pass(Level::Error));
        threshold.set(Level::Debug);
        assert!(of_another_thread.lets_pass(Level::Debug));
    }
}
