//! Broadcast from the database: a row that is inserted into `realtime.messages` becomes a broadcast on its topic (spec:
//! broadcast-from-database).
//!
//! What comes in: a [`Source`], the rows of its database. What goes out: messages for the shards that own their topics. What always
//! holds: a row that is committed after [`Snapshot::take`] returned is broadcast once, whatever breaks in between, or counted
//! ([`Measures`]; `every_committed_row_comes_once_whatever_dies`, in tests/database); rows of one transaction keep their order; one
//! tenant's database delays only its own rows. Deliberately absent: policies; inserting the row was the permission.

pub mod measures;
pub mod row;
pub mod snapshot;
pub mod ledger;
pub mod kept;
pub mod publish;
pub mod catch_up;
pub mod publication;
pub mod engine;
pub mod pump;
pub mod watchdog;
pub mod replay;

pub use kept::{Identity, Kept};
pub use ledger::Ledger;
pub use measures::{Lag, Measures};
pub use replay::replay;
pub use row::Dropped;
pub use snapshot::Snapshot;

use super::database::{Environment, Pool, Settings};
use crate::tenant::Tenant;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// What is to be broadcast, and with what.
pub struct Source {
    /// Whose database. Its limits are looked up anew for each row.
    pub tenant: Arc<Tenant>,
    /// Where it is.
    pub settings: Rc<Settings>,
    /// For short questions.
    pub pool: Pool,
    /// What it does not know and was committed after its snapshot is broadcast.
    pub ledger: Rc<RefCell<Ledger>>,
    /// Told whether rows are broadcast as they are committed.
    pub state: watch::Sender<bool>,
    /// What is counted.
    pub measures: Rc<Measures>,
    /// What all share.
    pub environment: Rc<Environment>,
}

/// Nothing could be delivered for [`limits::REPLICATION_RECOVERY_WINDOW`](crate::limits::REPLICATION_RECOVERY_WINDOW).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct WindowExceeded;

/// Broadcasts rows of `realtime.messages` until it is dropped, which ends the stream and its slot. What breaks is restored; it returns only
/// when nothing could be delivered for too long.
pub async fn broadcast(source: Source) -> WindowExceeded {
    engine::Engine::new(source).run().await
}
