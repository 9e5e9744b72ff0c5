//! What looks after the slot while it is made and read.
//!
//! What comes in: what the database says of the slot, and what was heard of the connection. What goes out: an [`Ending`] when the connection
//! is to be restored or the slot given up. What always holds: the log that the database keeps for the slot stays below
//! `REPLICATION_SLOT_WAL_BYTES_MAX` and below half of `max_slot_wal_keep_size`, or the slot is given up
//! (`log_beyond_the_bound_is_a_gap`). Deliberately absent: doing it.

use super::life::{Ending, Life, Phase};
use crate::control::clock;
use crate::control::replication::slot::Sight;
use crate::control::replication::watch::{Heard, Silence, judge_slot};
use crate::control::replication::{Fault, Way};
use crate::error::ErrorCode;
use crate::limits;
use std::time::Duration;

impl Life {
    /// Looks until something is to be done.
    pub(super) async fn watch(&self) -> Ending {
        let config = &self.environment.config;
        let interval = Duration::from_millis(config.replication_watchdog_interval_ms);
        let max = limits::REPLICATION_SILENCE_MAX.min(interval * 2);
        let position = self.place.get().confirms();
        let mut silence = Silence::new(self.events.get(), position, clock::now(), max);
        loop {
            tokio::time::sleep(interval.min(limits::REPLICATION_CHECK_INTERVAL)).await;
            let name = self.name.borrow().clone().unwrap_or_default();
            match self.scout.look(&name).await {
                Ok(sight) => {
                    self.note(&sight);
                    if let Some(ending) = self.judge(&mut silence, &sight, &name) {
                        return ending;
                    }
                }
                Err(fault) => self.log_rarely(
                    ErrorCode::ReplicationSlotCheckSkipped,
                    &format!("Could not check replication slot: {fault}"),
                ),
            }
        }
    }

    fn note(&self, sight: &Sight) {
        let done = self.queue.position_done();
        let lag = sight.end.0.saturating_sub(done.0);
        self.measures.lag_bytes.set(lag);
        let retained = sight.slot.as_ref().map_or(0, |slot| slot.retained_bytes);
        self.measures.retained_bytes.set(retained);
    }

    fn judge(&self, silence: &mut Silence, sight: &Sight, name: &str) -> Option<Ending> {
        let phase = self.phase.get();
        let slot = sight.slot.as_ref();
        // One that is being made need not be there yet.
        if phase == Phase::Making && slot.is_none() {
            return None;
        }
        let bytes_max = self.environment.config.replication_slot_wal_bytes_max;
        match judge_slot(slot, name, bytes_max) {
            Some((ErrorCode::ReplicationSlotLagTooHigh, text)) => {
                return Some(Ending::GivenUp(ErrorCode::ReplicationSlotLagTooHigh, text));
            }
            // Between two readings nobody uses a slot that is polled.
            Some((_, text)) if slot.is_none() || phase == Phase::Reading(Way::Stream) => {
                return Some(Ending::Broken(Fault::Broken(text)));
            }
            Some(_) | None => {}
        }
        // A reading of a polled slot may take long, and its connection notices by itself when nobody answers.
        let is_busy = phase != Phase::Reading(Way::Stream) || self.queue.is_full();
        let verdict = silence.judge(&Heard {
            events: self.events.get(),
            position: self.place.get().confirms(),
            is_busy,
            end: sight.end,
            now: clock::now(),
        });
        verdict.map(|(_, text)| Ending::Broken(Fault::Broken(text)))
    }
}
