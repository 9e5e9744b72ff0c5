//! What a shard counts of its channels (spec: metrics 2).
//!
//! Reading a clock for each message would cost more than most messages do, and the runtime knows how long each turn took. So a message
//! counts with the time of its turn, at whose end everything that it led to has been handed to the kernel: an upper bound of how long it
//! took, and what its client waits for. The length of a turn is known in the next one only, and is noted there.

use super::Channels;
use crate::connection::Io;
use crate::metrics::{Figures, millis};
use crate::phoenix::Vsn;

/// What was handled in one turn.
#[derive(Copy, Clone, Default)]
pub(super) struct Handled {
    /// Messages of joined channels.
    pub(super) messages: u64,
    /// Upgrades, by serializer.
    pub(super) upgrades: [u64; 2],
}

/// The number of this shard's cells.
pub(super) fn thread(io: &Io<'_>) -> usize {
    usize::from(io.shard().0)
}

impl Channels {
    /// Where this shard counts.
    #[must_use]
    pub fn figures(&self, io: &Io<'_>) -> &Figures {
        &self.settings.board[thread(io)]
    }

    /// A socket was upgraded in this turn.
    pub fn count_upgrade(&mut self, vsn: Vsn) {
        self.handled.upgrades[vsn as usize] += 1;
    }

    /// Ends the turn.
    pub fn note_turn(&mut self, io: &Io<'_>) {
        let before = std::mem::replace(&mut self.handled_before, self.handled);
        self.handled = Handled::default();
        let figures = self.figures(io);
        let took = millis(io.last_turn());
        if before.messages > 0 {
            figures.handled_ms.observe_many(took, before.messages);
        }
        for (histogram, upgrades) in figures.upgraded_ms.iter().zip(before.upgrades) {
            if upgrades > 0 {
                histogram.observe_many(took, upgrades);
            }
        }
        figures.topics_owned.set(self.fanout.topics_owned() as u64);
        figures.lines_suppressed.set(self.gate.suppressed());
    }
}
