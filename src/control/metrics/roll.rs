//! Who has been here: the tenants that have series, and what those that are no more have left in the sums.
//!
//! What comes in: the tenants of now, what rooms count of them, and time. What goes out: rows, by name, and [`Totals`]. What always
//! holds: a tenant that was never here has no row; sums over all tenants never fall, although tenants are deleted
//! (`sums_outlive_their_tenants`); a row that the cleaner has hidden goes on being counted, and comes back with the next sign of life
//! (`a_vacant_tenant_is_hidden_until_it_comes_back`). Deliberately absent: how rows are written.

use super::pace::Pace;
use crate::control::changes::{self, Hub};
use crate::control::database::Environment;
use crate::control::messages;
use crate::control::session::Sessions;
use crate::error::ErrorCode;
use crate::limits;
use crate::metrics::{Relayed, Tally, WIDE_BOUNDS};
use crate::tenant::{Counter, TenantId, Usage};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A tenant that has been here.
pub struct Row {
    pub(super) id: TenantId,
    /// Its name.
    pub tenant: Arc<str>,
    /// Its counters.
    pub usage: Arc<Usage>,
    /// Its channels have listened to row changes.
    pub changes: Option<Rc<changes::Measures>>,
    /// Its database was needed.
    pub messages: Option<Rc<messages::Measures>>,
    /// It has a session with its database now.
    pub is_connected: bool,
    /// What was counted of it when it was last looked at, in sum: more means that it is here.
    seen: u64,
    /// When it was first seen to be away, in time since the start.
    vacant_since: Option<Duration>,
    is_hidden: bool,
}

impl Row {
    /// Of a tenant that is here for the first time.
    #[must_use]
    pub fn new(id: TenantId, tenant: Arc<str>, usage: Arc<Usage>) -> Self {
        Self {
            id,
            tenant,
            usage,
            changes: None,
            messages: None,
            is_connected: false,
            seen: 0,
            vacant_since: None,
            is_hidden: false,
        }
    }

    /// Looks whether it is here: it has users or a session, or something was counted of it since the last look.
    fn look(&mut self, now: Duration) {
        let seen = self.usage.activity();
        let is_here = self.usage.users() > 0 || self.is_connected || seen != self.seen;
        self.seen = seen;
        if is_here {
            self.vacant_since = None;
            self.is_hidden = false;
        } else if self.vacant_since.is_none() {
            self.vacant_since = Some(now);
        }
    }
}

/// What all tenants have counted together.
#[derive(Clone, Debug)]
pub struct Totals {
    counts: [u64; Counter::ALL.len()],
    /// Bytes received and sent.
    pub bytes: (u64, u64),
    payloads: [Tally<11>; Relayed::ALL.len()],
    /// Errors by code.
    pub errors: BTreeMap<ErrorCode, u64>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            counts: [0; Counter::ALL.len()],
            bytes: (0, 0),
            payloads: [const { Tally::new(&WIDE_BOUNDS) }; Relayed::ALL.len()],
            errors: BTreeMap::new(),
        }
    }
}

impl Totals {
    /// Adds what was counted of a tenant.
    pub fn add(&mut self, usage: &Usage) {
        for (sum, counter) in self.counts.iter_mut().zip(Counter::ALL) {
            *sum += usage.total(counter);
        }
        let (received, sent) = usage.bytes();
        self.bytes = (self.bytes.0 + received, self.bytes.1 + sent);
        for (sum, what) in self.payloads.iter_mut().zip(Relayed::ALL) {
            if let Some(tally) = usage.payloads(*what) {
                sum.merge(&tally);
            }
        }
        for (code, count) in usage.errors() {
            *self.errors.entry(code).or_default() += count;
        }
    }

    /// The sum of a rate counter.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }

    /// The sizes of relayed messages.
    #[must_use]
    pub fn payloads(&self, what: Relayed) -> &Tally<11> {
        &self.payloads[what as usize]
    }
}

/// All who have been here.
#[derive(Default)]
pub struct Roll {
    rows: BTreeMap<Arc<str>, Row>,
    /// Of tenants that are no more.
    gone: Totals,
}

impl Roll {
    /// Looks who is here `now`, in time since the start.
    pub async fn look(
        &mut self,
        environment: &Environment,
        changes: &Hub,
        sessions: &Sessions,
        now: Duration,
    ) {
        let mut pace = Pace::default();
        let live = Arc::clone(&environment.tenants.borrow());
        for tenant in live.directory.iter() {
            pace.step().await;
            let is_listed = self
                .rows
                .get(&tenant.external_id)
                .is_some_and(|row| row.id == tenant.id);
            let of_changes = changes.measures(tenant.id);
            let of_messages = sessions.measures(tenant.id);
            let usage = &tenant.usage;
            if !is_listed {
                let was_here = of_changes.is_some()
                    || of_messages.is_some()
                    || usage.users() > 0
                    || usage.activity() > 0;
                if !was_here {
                    continue;
                }
                let name = &tenant.external_id;
                let row = Row::new(tenant.id, Arc::clone(name), Arc::clone(usage));
                if let Some(before) = self.rows.insert(Arc::clone(name), row) {
                    self.gone.add(&before.usage);
                }
            }
            if let Some(row) = self.rows.get_mut(&tenant.external_id) {
                row.changes = of_changes;
                row.messages = of_messages;
                row.is_connected = sessions.is_connected(tenant.id);
                row.look(now);
            }
        }
        self.rows.retain(|_, row| {
            let stays = live.directory.get(row.id).is_some();
            if !stays {
                self.gone.add(&row.usage);
            }
            stays
        });
    }

    /// Takes the series of those that are away for [`limits::METRICS_VACANT_AFTER`] (spec: metrics 1). Returns how many.
    pub fn clean(&mut self, now: Duration) -> usize {
        let mut hidden = 0;
        for row in self.rows.values_mut() {
            let is_due = row
                .vacant_since
                .is_some_and(|since| now > since + limits::METRICS_VACANT_AFTER);
            if is_due && !row.is_hidden {
                row.is_hidden = true;
                hidden += 1;
            }
        }
        hidden
    }

    /// Those that have series, by name: at most [`limits::METRICS_TENANTS_MAX`].
    pub fn shown(&self) -> impl Iterator<Item = &Row> {
        self.all_shown().take(limits::METRICS_TENANTS_MAX)
    }

    /// How many would have, and are too many.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.all_shown()
            .count()
            .saturating_sub(limits::METRICS_TENANTS_MAX)
    }

    fn all_shown(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().filter(|row| !row.is_hidden)
    }

    /// Users of all tenants, now.
    #[must_use]
    pub fn users(&self) -> u64 {
        let rows = self.rows.values();
        rows.map(|row| u64::from(row.usage.users())).sum()
    }

    /// What was counted of all tenants since the start.
    pub async fn totals(&self) -> Totals {
        let mut pace = Pace::default();
        let mut totals = self.gone.clone();
        for row in self.rows.values() {
            pace.step().await;
            totals.add(&row.usage);
        }
        totals
    }

    /// Puts a row into the roll, for tests.
    #[cfg(test)]
    pub(super) fn insert(&mut self, row: Row) {
        self.rows.insert(Arc::clone(&row.tenant), row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_has_a_session_or_does_something_is_not_away() {
        let usage = Arc::new(Usage::new(1));
        let row = || Row::new(TenantId(1), "a".into(), Arc::clone(&usage));
        let hidden = |row: Row, seconds: u32| {
            let mut roll = Roll::default();
            roll.insert(row);
            roll.clean(SECOND * seconds)
        };
        let mut idle = row();
        idle.look(Duration::ZERO);
        assert_eq!(hidden(idle, 601), 1);
        let mut connected = row();
        connected.is_connected = true;
        connected.look(Duration::ZERO);
        assert_eq!(hidden(connected, 601), 0);
        let busy = || {
            let mut busy = row();
            busy.look(Duration::ZERO);
            let _ = usage.count(0, Counter::Joins, 1);
            busy.look(SECOND * 500);
            busy
        };
        assert_eq!(hidden(busy(), 1000), 0, "it did something in between");
        let mut quiet = busy();
        quiet.look(SECOND * 800);
        assert_eq!(hidden(quiet, 1401), 1, "and nothing since");
    }
}
