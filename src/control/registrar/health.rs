//! How a tenant is (spec: http-api 3.8).
//!
//! What always holds: a tenant whose schema is not known to be complete is being brought up to date when it is asked about, by one task
//! at a time. Deliberately absent: other nodes; their users are not counted here.

use super::clerk::Clerk;
use crate::control::database::migrate;
use crate::control::store::TenantRecord;
use crate::control::supervise::{caught, panic_text};
use crate::error::Level;
use crate::tenant::Tenant;
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::spawn_local;

/// See the module.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// Its database is connected, or nobody needs it and its schema is complete.
    pub is_healthy: bool,
    /// There is a session with its database.
    pub is_connected: bool,
    /// Rows of `realtime.messages` are streamed.
    pub is_replicating: bool,
    /// Sockets that have joined something.
    pub users: u32,
}

impl Clerk {
    /// The table of http-api 3.8.
    pub(super) fn health_of(self: &Rc<Self>, tenant: &Arc<Tenant>) -> Health {
        let state = self.sessions.state(tenant.id);
        let users = tenant.usage.users();
        let is_healthy = state.is_connected || (users == 0 && self.is_up_to_date(tenant));
        if !is_healthy && users == 0 {
            self.migrate_behind(tenant);
        }
        Health {
            is_healthy,
            is_connected: state.is_connected,
            is_replicating: state.is_replicating,
            users,
        }
    }

    fn is_up_to_date(&self, tenant: &Tenant) -> bool {
        let registry = self.registry.borrow();
        let record = registry.record(&tenant.external_id);
        !tenant.has_database
            || record.is_some_and(is_migrated)
            || self.sessions.is_prepared(tenant.id)
    }

    /// Brings a database up to date behind the caller's back, unless that is being done already.
    fn migrate_behind(self: &Rc<Self>, tenant: &Arc<Tenant>) {
        if self.migrating.borrow_mut().insert(tenant.id) {
            let (clerk, tenant) = (Rc::clone(self), Arc::clone(tenant));
            spawn_local(async move {
                // Why it failed is in the log. Whatever becomes of it, the next question may try again.
                let migrated = caught(clerk.migrate(&tenant.external_id, tenant.id)).await;
                if let Err(panic) = migrated {
                    let text = panic_text(&*panic);
                    let text = format!("bringing a database up to date panicked: {text}");
                    clerk.say(Level::Error, &text);
                }
                clerk.migrating.borrow_mut().remove(&tenant.id);
            });
        }
    }
}

/// Whether the database has had all migrations, as far as is noted.
fn is_migrated(record: &TenantRecord) -> bool {
    usize::try_from(record.migrations_ran).is_ok_and(|ran| ran >= migrate::UPSTREAM_MIGRATIONS)
}
