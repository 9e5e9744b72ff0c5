//! Decided changes to the shards.
//!
//! What comes in: changes, each with the listeners that it is for, in the order of the stream. What goes out: one letter per batch and
//! shard that has any of them. What always holds: changes for one role keep their order, and a channel has one role; at most
//! [`limits::CHANGES_BYTES_UNDER_WAY_MAX`] bytes of a tenant are under way to shards that do not take them. Deliberately absent: deciding.

use crate::control::database::Environment;
use crate::control::outgoing::Parcel;
use crate::limits;
use crate::mail::{ChangeBatch, Listeners, RowChange, Run};
use crate::tenant::TenantId;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Where a tenant's changes leave for the shards.
#[derive(Debug)]
pub(super) struct Dispatch {
    tenant: TenantId,
    environment: Rc<Environment>,
    /// One permit per KiB that may be under way.
    room: Arc<Semaphore>,
}

/// The changes of a batch, by role.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    lanes: Vec<(Rc<str>, Vec<Run>)>,
    shards: Vec<bool>,
    /// Of changes and of names of groups.
    bytes: usize,
    changes: u64,
}

const KIB: usize = 1024;

impl Outbound {
    /// Puts a change behind the others of its role.
    pub(super) fn push(&mut self, role: &Rc<str>, audience: &[Listeners], change: RowChange) {
        self.bytes += change.data.len();
        self.changes += 1;
        let lane = match self.lanes.iter_mut().find(|(name, _)| name == role) {
            Some((_, lane)) => lane,
            None => {
                self.lanes.push((Rc::clone(role), Vec::new()));
                let (_, lane) = self.lanes.last_mut().expect("it was pushed");
                lane
            }
        };
        match lane.last_mut() {
            Some(run) if run.audience == audience => run.changes.push(change),
            _ => {
                let groups = audience.iter().filter_map(|one| one.groups.as_ref());
                self.bytes += groups.map(|groups| size_of_val(&**groups)).sum::<usize>();
                lane.push(Run {
                    audience: audience.to_vec(),
                    changes: vec![change],
                });
            }
        }
    }

    /// Whether it is as large as a letter should be.
    pub(super) fn is_enough(&self) -> bool {
        self.bytes >= limits::CHANGES_BATCH_BYTES_MAX
    }

    /// Some of those it is for are on this shard.
    pub(super) fn is_for(&mut self, shard: usize) {
        if self.shards.len() <= shard {
            self.shards.resize(shard + 1, false);
        }
        self.shards[shard] = true;
    }
}

impl Dispatch {
    pub(super) fn new(tenant: TenantId, environment: Rc<Environment>) -> Self {
        let permits = limits::CHANGES_BYTES_UNDER_WAY_MAX / KIB;
        Self {
            tenant,
            environment,
            room: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Hands a batch to the shards; waits while too much is under way.
    pub(super) async fn send(&self, outbound: Outbound) {
        if outbound.changes == 0 {
            return;
        }
        // A single change may be larger than all the room there is.
        let permits = (outbound.bytes / KIB + 1).min(limits::CHANGES_BYTES_UNDER_WAY_MAX / KIB);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        let runs = outbound.lanes.into_iter().flat_map(|(_, lane)| lane);
        let batch = Arc::new(ChangeBatch {
            tenant: self.tenant,
            runs: runs.collect(),
            // Nobody closes the semaphore. Given back when the last shard has read the batch.
            room: room.ok().map(|room| Box::new(room) as _),
        });
        for (shard, is_for) in outbound.shards.iter().enumerate() {
            if *is_for {
                let parcel = Parcel::Changes(shard, Arc::clone(&batch));
                self.environment.outgoing.send(parcel).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::ClassId;

    fn change(n: usize) -> RowChange {
        RowChange {
            event: "INSERT",
            data: n.to_string().into(),
        }
    }

    fn class(n: u64) -> Vec<Listeners> {
        vec![Listeners {
            class: ClassId(n),
            groups: None,
        }]
    }

    #[test]
    fn neighbours_for_the_same_listeners_are_one_run() {
        let (anon, user): (Rc<str>, Rc<str>) = ("anon".into(), "user".into());
        let mut outbound = Outbound::default();
        outbound.push(&anon, &class(1), change(0));
        outbound.push(&user, &class(2), change(1));
        outbound.push(&anon, &class(1), change(2));
        outbound.push(&anon, &class(3), change(3));
        outbound.push(&anon, &class(1), change(4));
        let runs: Vec<Vec<&str>> = outbound.lanes[0]
            .1
            .iter()
            .map(|run| run.changes.iter().map(|change| &*change.data).collect())
            .collect();
        assert_eq!(runs, [vec!["0", "2"], vec!["3"], vec!["4"]]);
        assert_eq!(outbound.lanes[1].1.len(), 1);
        assert_eq!(outbound.changes, 5);
    }
}
