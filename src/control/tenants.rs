//! Records of tenants as what the server works with: numbers, snapshots, counters.
//!
//! What comes in: [`TenantRecord`]s. What goes out: [`Live`], an immutable picture of all tenants, replaced whole on change. What
//! always holds: a tenant keeps its number and its [`Usage`] as long as it exists (`a_changed_record_keeps_number_and_counters`), and
//! a number is never given twice. Deliberately absent: telling the shards; whoever changes a tenant mails what he gets back.

use super::store::TenantRecord;
use crate::auth::{ClaimValidators, Verifier};
use crate::tenant::{Tenant, TenantDirectory, TenantId, TenantLimits, Usage};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio::sync::watch;

/// All tenants at one moment.
#[derive(Clone, Default)]
pub struct Live {
    /// The snapshots that the shards have.
    pub directory: TenantDirectory,
    requests: FxHashMap<TenantId, Arc<RequestCounter>>,
    databases: FxHashMap<TenantId, Arc<Map<String, Value>>>,
}

impl Live {
    /// The requests of a tenant.
    #[must_use]
    pub fn requests(&self, id: TenantId) -> Option<&Arc<RequestCounter>> {
        self.requests.get(&id)
    }

    /// The settings of a tenant's database as they are stored, if it has one. They hold its password.
    #[must_use]
    pub fn database(&self, id: TenantId) -> Option<&Arc<Map<String, Value>>> {
        self.databases.get(&id)
    }
}

/// Without the settings of databases: passwords stand in them.
impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// The requests of one tenant to the HTTP endpoints of tenants (spec 9.3).
#[derive(Debug, Default)]
pub struct RequestCounter {
    total: AtomicU64,
    running: AtomicBool,
    average: AtomicU32,
}

impl RequestCounter {
    /// Counts a request. True when it created the counter, which is then to be ticked.
    #[must_use]
    pub fn count(&self) -> bool {
        self.total.fetch_add(1, Ordering::Relaxed);
        !self.running.swap(true, Ordering::Relaxed)
    }

    /// Requests per second at the last tick, rounded down.
    #[must_use]
    pub fn average(&self) -> u32 {
        self.average.load(Ordering::Relaxed)
    }

    /// Publishes the outcome of a tick.
    pub fn publish(&self, average: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and counts are not negative"
        )]
        self.average.store(average as u32, Ordering::Relaxed);
    }

    /// Everything counted since the start.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Back to a counter that does not exist.
    pub fn discard(&self) {
        self.average.store(0, Ordering::Relaxed);
        self.running.store(false, Ordering::Relaxed);
    }
}

/// What holds for all tenants alike.
#[derive(Clone, Debug)]
pub struct Common {
    /// Threads that count: the shards and the control core.
    pub threads: usize,
    /// `JWT_CLAIM_VALIDATORS`.
    pub validators: Arc<ClaimValidators>,
    /// `CLIENT_PRESENCE_MAX_CALLS`.
    pub client_presence_calls_max: u32,
    /// `CLIENT_PRESENCE_WINDOW_MS`.
    pub client_presence_window_ms: u32,
}

/// The tenants of this process.
#[derive(Debug)]
pub struct Registry {
    live: watch::Sender<Arc<Live>>,
    /// What the snapshots were made of, by external id.
    records: FxHashMap<String, TenantRecord>,
    common: Common,
    next_id: u32,
}

impl Registry {
    /// Without any tenant.
    #[must_use]
    pub fn new(common: Common) -> Self {
        Self {
            live: watch::Sender::default(),
            records: FxHashMap::default(),
            common,
            next_id: 0,
        }
    }

    /// The picture of all tenants, now and after each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Live>> {
        self.live.subscribe()
    }

    /// The record of a tenant as it was taken last.
    #[must_use]
    pub fn record(&self, external_id: &str) -> Option<&TenantRecord> {
        self.records.get(external_id)
    }

    /// Takes a record, of a tenant that is new or changed. Returns its snapshot, and whether limits of a known tenant are others
    /// than before: its rate counters are to start over.
    pub fn apply(&mut self, record: &TenantRecord) -> (Arc<Tenant>, bool) {
        let mut live = Live::clone(&self.live.borrow());
        let applied = self.enter(&mut live, record);
        self.live.send_replace(Arc::new(live));
        applied
    }

    /// Takes many records at once: the picture of all tenants, which grows with them, is made once.
    pub fn apply_all(&mut self, records: &[TenantRecord]) {
        let mut live = Live::clone(&self.live.borrow());
        for record in records {
            self.enter(&mut live, record);
        }
        self.live.send_replace(Arc::new(live));
    }

    fn enter(&mut self, live: &mut Live, record: &TenantRecord) -> (Arc<Tenant>, bool) {
        let before = live.directory.find(&record.external_id).cloned();
        let id = before
            .as_ref()
            .map_or_else(|| self.new_id(), |before| before.id);
        let usage = match &before {
            Some(before) => Arc::clone(&before.usage),
            None => Arc::new(Usage::new(self.common.threads)),
        };
        let secret = record
            .jwt_secret
            .as_ref()
            .map(|secret| secret.as_bytes().to_vec());
        let tenant = Arc::new(Tenant {
            id,
            external_id: record.external_id.as_str().into(),
            verifier: Verifier::new(
                secret,
                record.jwt_jwks.as_ref(),
                Arc::clone(&self.common.validators),
            ),
            limits: self.limits(record),
            suspended: record.suspend,
            private_only: record.private_only,
            presence_enabled: record.presence_enabled,
            has_database: record.has_database(),
            usage,
        });
        live.directory.insert(Arc::clone(&tenant));
        live.requests.entry(id).or_default();
        match record.database() {
            Some(settings) if live.database(id).is_some_and(|known| **known == *settings) => {}
            Some(settings) => {
                live.databases.insert(id, Arc::new(settings.clone()));
            }
            None => {
                live.databases.remove(&id);
            }
        }
        self.records
            .insert(record.external_id.clone(), record.clone());
        let limits_changed = before.is_some_and(|before| before.limits != tenant.limits);
        (tenant, limits_changed)
    }

    /// Forgets a tenant.
    pub fn remove(&mut self, external_id: &str) -> Option<Arc<Tenant>> {
        let mut live = Live::clone(&self.live.borrow());
        let id = live.directory.find(external_id)?.id;
        let tenant = live.directory.remove(id);
        live.requests.remove(&id);
        live.databases.remove(&id);
        self.live.send_replace(Arc::new(live));
        self.records.remove(external_id);
        tenant
    }

    fn new_id(&mut self) -> TenantId {
        self.next_id += 1;
        TenantId(self.next_id)
    }

    fn limits(&self, record: &TenantRecord) -> TenantLimits {
        // A tenant's own window counts only where it is more than nothing (spec: websocket-protocol 9.3).
        let own = |value: Option<i32>, common: u32| match value.map(count) {
            None | Some(0) => common,
            Some(own) => own,
        };
        TenantLimits {
            users_max: count(record.max_concurrent_users),
            joins_per_second_max: count(record.max_joins_per_second),
            channels_per_socket_max: count(record.max_channels_per_client),
            events_per_second_max: count(record.max_events_per_second),
            presence_events_per_second_max: count(record.max_presence_events_per_second),
            payload_bytes_max: TenantLimits::payload_bytes(count(record.max_payload_size_in_kb)),
            client_presence_calls_max: own(
                record.max_client_presence_events_per_window,
                self.common.client_presence_calls_max,
            ),
            client_presence_window_ms: own(
                record.client_presence_window_ms,
                self.common.client_presence_window_ms,
            ),
        }
    }
}

/// A stored limit; one below nothing is nothing.
fn count(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}

/// Tests, and a registry for those of other rooms.
#[cfg(test)]
pub mod tests {
    use super::super::store::TEST_DEFAULTS;
    use super::*;

    /// A registry for one shard.
    pub fn registry() -> Registry {
        Registry::new(Common {
            threads: 2,
            validators: Arc::default(),
            client_presence_calls_max: 5,
            client_presence_window_ms: 30_000,
        })
    }

    /// A tenant with a secret and default limits.
    pub fn record(external_id: &str) -> TenantRecord {
        let mut record = TenantRecord::new(external_id, &TEST_DEFAULTS, 1);
        record.jwt_secret = Some("secret".to_owned());
        record
    }

    #[test]
    fn a_changed_record_keeps_number_and_counters() {
        let mut registry = registry();
        let mut record = record("a");
        let (first, changed) = registry.apply(&record);
        assert!(!changed && first.usage.try_add_user(5));
        record.suspend = true;
        let (second, changed) = registry.apply(&record);
        assert!(!changed && second.suspended);
        assert!(first.id == second.id && Arc::ptr_eq(&first.usage, &second.usage));
        record.max_joins_per_second = 1;
        assert!(registry.apply(&record).1);
        assert!(registry.watch().borrow().requests(first.id).is_some());
        assert_eq!(registry.record("a"), Some(&record));
        assert_eq!(registry.remove("a").map(|tenant| tenant.id), Some(first.id));
        assert_eq!(registry.record("a"), None);
        assert!(registry.watch().borrow().requests(first.id).is_none());
        assert_ne!(
            registry.apply(&record).0.id,
            first.id,
            "a number is never given twice"
        );
    }

    #[test]
    fn many_records_at_once_are_as_one_after_the_other() {
        let records = ["a", "b", "a"].map(record);
        let (mut at_once, mut singly) = (registry(), registry());
        at_once.apply_all(&records);
        for record in &records {
            singly.apply(record);
        }
        let ids = |registry: &Registry| {
            let live = Arc::clone(&registry.watch().borrow());
            ["a", "b"].map(|name| live.directory.find(name).map(|tenant| tenant.id))
        };
        assert_eq!(ids(&at_once), ids(&singly));
        assert_eq!(ids(&at_once), [Some(TenantId(1)), Some(TenantId(2))]);
        assert_eq!(at_once.watch().borrow().directory.len(), 2);
    }

    #[test]
    fn own_presence_windows_count_when_they_are_more_than_nothing() {
        let mut registry = registry();
        let mut check = |own: Option<i32>, expected| {
            let mut record = record("a");
            record.max_client_presence_events_per_window = own;
            assert_eq!(
                registry.apply(&record).0.limits.client_presence_calls_max,
                expected,
                "{own:?}"
            );
        };
        check(None, 5);
        check(Some(0), 5);
        check(Some(-1), 5);
        check(Some(7), 7);
    }
}
