//! Whose a slot is that has our name.
//!
//! What comes in: what the database says of it. What goes out: a slot of ours that nobody else uses, or a name that is free. What always
//! holds: a slot of an earlier life is not read, since what became of its words is not known (`slot_of_an_earlier_life_is_dropped`); a
//! slot that somebody else has moved is not ours any more; somebody else's connection is ended only after
//! [`limits::CHANGES_SLOT_FAILURES_MAX`] failures in a row (`slot_of_a_dead_owner_is_taken_over`). Deliberately absent: making one.

use super::life::Life;
use crate::control::replication::Fault;
use crate::control::replication::slot::{Sight, SlotState};
use crate::error::{ErrorCode, Level};
use crate::limits;
use std::rc::Rc;

impl Life {
    /// Afterwards the slot is ours and unused, or there is none of that name.
    pub(super) async fn claim(&self, name: &Rc<str>) -> Result<(), Fault> {
        let before = self.name.replace(Some(Rc::clone(name)));
        if before.is_some_and(|before| before != *name) {
            self.lose("the database is another one");
        }
        let sight = self.scout.look(name).await?;
        self.warn_of_no_bound(&sight);
        let Some(slot) = sight.slot else {
            self.lose(&format!("the replication slot {name} is gone"));
            return Ok(());
        };
        if !slot.is_ours {
            return Err(in_use(name, true));
        }
        if let Some(reason) = self.why_not_ours(&slot) {
            self.lose(&format!("the replication slot {name} {reason}"));
        }
        if let Some(pid) = slot.active_pid {
            self.free(name, pid).await?;
        }
        if !self.is_owned.get() {
            self.scout.drop_slot(name).await?;
            let text = format!("replication slot {name} was there and nobody used it: dropped");
            self.say(Level::Warning, &text);
        } else if let Some(position) = self.step_over.get() {
            self.scout.advance(name, position).await?;
            self.step_over.set(None);
            self.queue.begin_life(position);
        }
        Ok(())
    }

    /// Why a slot that was ours is not any more.
    fn why_not_ours(&self, slot: &SlotState) -> Option<&'static str> {
        if !self.is_owned.get() {
            return None;
        }
        if slot.is_lost || slot.confirmed.is_none() {
            return Some("is invalidated: the database keeps its log no longer");
        }
        let is_foreign = slot.active_pid.is_some() && slot.active_pid != self.pid.get();
        if is_foreign || slot.confirmed > Some(self.queue.position_done()) {
            return Some("is read by somebody else");
        }
        None
    }

    /// Ends the process that uses the slot: our own that may not have noticed yet that its connection is lost, or somebody else's after some
    /// failures.
    async fn free(&self, name: &str, pid: i32) -> Result<(), Fault> {
        if self.pid.get() != Some(pid) {
            let failures = self.in_use.get() + 1;
            self.in_use.set(failures);
            let text = format!("replication slot \"{name}\" is active for PID {pid}");
            match self.scout.describe(pid).await {
                Ok(Some(seen)) => self.log(
                    ErrorCode::ReplicationSlotBeingUsed,
                    &format!("{text} ({seen})"),
                ),
                Ok(None) => self.log(ErrorCode::ReplicationSlotBeingUsed, &text),
                Err(fault) => self.log(ErrorCode::PgStatActivityQueryFailed, &fault.to_string()),
            }
            if failures < limits::CHANGES_SLOT_FAILURES_MAX {
                return Err(in_use(name, false));
            }
            self.say(Level::Warning, "Replication slot in use - terminating");
        }
        self.scout.terminate(name, pid).await?;
        let slot = self.scout.look(name).await?.slot;
        if slot.is_some_and(|slot| slot.active_pid.is_some()) {
            return Err(in_use(name, false));
        }
        Ok(())
    }

    /// Says once that nothing but this server bounds what the database keeps for a slot.
    fn warn_of_no_bound(&self, sight: &Sight) {
        if sight.keep_bytes_max.is_none() && !self.warned.replace(true) {
            let text = format!(
                "max_slot_wal_keep_size is -1: should this server end without dropping its replication slot, the database keeps its log \
                 for it until the disk is full. While the server runs, REPLICATION_SLOT_WAL_BYTES_MAX ({}) bounds it",
                self.environment.config.replication_slot_wal_bytes_max
            );
            self.say(Level::Warning, &text);
        }
    }
}

fn in_use(name: &str, is_elsewhere: bool) -> Fault {
    Fault::SlotInUse {
        slot: name.to_owned(),
        is_elsewhere,
    }
}
