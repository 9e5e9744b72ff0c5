//! Long work in slices: the control core has one thread, and shards wait for its answers.

use crate::limits;

/// Counts steps, and lets others work after every [`limits::METRICS_STEPS_PER_SLICE`] of them.
#[derive(Debug, Default)]
pub struct Pace {
    taken: usize,
}

impl Pace {
    /// One step: a series or so.
    pub async fn step(&mut self) {
        self.steps(1).await;
    }

    /// So many steps at once.
    pub async fn steps(&mut self, steps: usize) {
        self.taken += steps;
        if self.taken >= limits::METRICS_STEPS_PER_SLICE {
            self.taken = 0;
            tokio::task::yield_now().await;
        }
    }
}
