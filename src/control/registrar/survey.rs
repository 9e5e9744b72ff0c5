//! How all tenants are, for the people who look after them (spec: http-api 10).
//!
//! What comes in: a question. What goes out: a row a tenant. What always holds: nothing of a row is a secret, or says where a database
//! is; however many tenants there are, the rows are bounded, and those in trouble come first (`those_in_trouble_come_first`).
//! Deliberately absent: the store; what this process does not serve is not listed.

use super::clerk::Clerk;
use crate::control::metrics::pace::Pace;
use crate::control::session::Stage;
use crate::error::ErrorCode;
use crate::tenant::{Counter, Tenant};
use std::cmp::Reverse;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Those in trouble first, then those with the most users, then by name.
    pub tenants: Vec<Surveyed>,
    /// Tenants that were too many.
    pub left_out: usize,
}

/// A tenant as it is now. What is said to be total counts from the start of the process.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its name for clients.
    pub external_id: Arc<str>,
    /// Its name for people.
    pub name: String,
    /// Sockets that have joined something.
    pub users: u32,
    /// How many of them it may have.
    pub users_max: u32,
    /// It is suspended.
    pub is_suspended: bool,
    /// Broadcasts sent and delivered, total.
    pub events_total: u64,
    /// Where its database stands.
    pub database: Database,
    /// Rows of `realtime.messages` are streamed now.
    pub is_streaming: bool,
    /// Rows of `realtime.messages` that were broadcast, total.
    pub rows_broadcast_total: u64,
    /// How far that is behind, in milliseconds.
    pub broadcast_lag_ms: u64,
    /// Channels that listen to row changes.
    pub listeners: usize,
    /// Row changes that were delivered, total.
    pub changes_total: u64,
    /// How far they are behind, in milliseconds.
    pub changes_lag_ms: u64,
}

/// Where the database of a tenant stands.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Database {
    /// It has none.
    NotConfigured,
    /// It has one.
    Configured(Stage),
}

impl Database {
    /// A word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::Configured(Stage::Idle) => "idle",
            Self::Configured(Stage::Connecting(_)) => "connecting",
            Self::Configured(Stage::Connected) => "connected",
            Self::Configured(Stage::Failing(_)) => "failing",
        }
    }

    /// The code of its last failure, while that matters.
    #[must_use]
    pub const fn code(self) -> Option<ErrorCode> {
        match self {
            Self::Configured(Stage::Failing(code) | Stage::Connecting(Some(code))) => Some(code),
            _ => None,
        }
    }
}

impl Clerk {
    /// All tenants, but no more than `most` of them.
    pub(super) async fn survey(&self, most: usize) -> Survey {
        let live = Arc::clone(&self.environment.tenants.borrow());
        let mut pace = Pace::default();
        let mut all = Vec::with_capacity(live.directory.len());
        for tenant in live.directory.iter() {
            pace.step().await;
            let is_well = self.database_of(tenant).code().is_none();
            let key = (is_well, Reverse(tenant.usage.users()), &tenant.external_id);
            all.push((key, tenant));
        }
        all.sort_unstable_by_key(|(key, _)| *key);
        let left_out = all.len().saturating_sub(most);
        all.truncate(most);
        let mut tenants = Vec::with_capacity(all.len());
        for (_, tenant) in all {
            pace.step().await;
            tenants.push(self.surveyed(tenant));
        }
        Survey { tenants, left_out }
    }

    fn database_of(&self, tenant: &Tenant) -> Database {
        if tenant.has_database {
            Database::Configured(self.sessions.stage(tenant.id))
        } else {
            Database::NotConfigured
        }
    }

    fn surveyed(&self, tenant: &Tenant) -> Surveyed {
        let registry = self.registry.borrow();
        let record = registry.record(&tenant.external_id);
        let messages = self.sessions.measures(tenant.id);
        let messages = messages.as_ref();
        let changes = self.changes.measures(tenant.id);
        let changes = changes.as_ref();
        Surveyed {
            external_id: Arc::clone(&tenant.external_id),
            name: record.map(|record| record.name.clone()).unwrap_or_default(),
            users: tenant.usage.users(),
            users_max: tenant.limits.users_max,
            is_suspended: tenant.suspended,
            events_total: tenant.usage.total(Counter::Events),
            database: self.database_of(tenant),
            is_streaming: self.sessions.state(tenant.id).is_replicating,
            rows_broadcast_total: messages.map_or(0, |of| of.delivered.get()),
            broadcast_lag_ms: messages.map_or(0, |of| of.lag.get().ms),
            listeners: self.changes.listeners(tenant.id),
            changes_total: changes.map_or(0, |of| of.delivered.get()),
            changes_lag_ms: changes.map_or(0, |of| of.lag_ms.get()),
        }
    }
}
