//! One tenant's database: settings, connections, the pool.
//!
//! What comes in: the settings of a tenant's extension. What goes out: [`Connection`]s and a [`Pool`] of them that comes back by
//! itself. What always holds: nobody waits longer than a named bound, and what waits for one tenant's database holds nothing that
//! another tenant needs. Deliberately absent: when to connect and when to stop; `session` knows that.

pub mod settings;
pub mod tls;
pub mod connect;
pub mod pool;
pub mod statement;
pub mod quote;
pub mod partitions;
pub mod migrate;

pub use connect::{ConnectError, Connection, cancel, connect, connect_listening};
pub use pool::{Lease, Pool, PoolError};
pub use settings::{Families, Manner, Settings};

use super::log::Log;
use super::outgoing::Outgoing;
use super::rates::{self, Notice};
use super::tenants::Live;
use crate::config::Config;
use crate::logging::Line;
use crate::mail::TopicHasher;
use crate::tenant::{Counter, Tenant, TenantId};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What everything that works with tenants' databases shares.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The configuration.
    pub config: Arc<Config>,
    /// All tenants.
    pub tenants: watch::Receiver<Arc<Live>>,
    /// The way to the shards.
    pub outgoing: Outgoing,
    /// The way to the rate counters.
    pub notices: mpsc::Sender<Notice>,
    /// Finds the shard that owns a topic.
    pub hasher: TopicHasher,
    /// The control core's cell in each tenant's counters.
    pub cell: usize,
    /// The log.
    pub log: Log,
}

impl Environment {
    /// Counts `n` uses of what a tenant is held to.
    pub fn count(&self, tenant: &Tenant, counter: Counter, n: u64) {
        rates::count(&self.notices, self.cell, tenant, counter, n);
    }

    /// Writes a line of this tenant, or of nobody where it is no more.
    pub fn write_of(&self, id: TenantId, line: Line) {
        let line = match self.tenants.borrow().directory.get(id) {
            Some(tenant) => line.of_tenant(Arc::clone(&tenant.external_id)),
            None => line,
        };
        self.log.write(line);
    }
}
