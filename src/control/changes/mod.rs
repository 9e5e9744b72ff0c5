//! From a row of a published table to the sockets that may see it (spec: postgres-changes).
//!
//! What comes in: subscriptions of channels, and the replication stream of a tenant's database. What goes out: letters to the shards that
//! have subscribers, in commit order. What always holds: what is not known to be visible is not delivered; a row is delivered once or
//! its absence is announced. Deliberately absent: which sockets a class of subscribers stands for; the shards know that.
//!
//! The rooms below, lowest first:

pub mod change;
pub mod wish;
pub mod types;
pub mod snapshot;
pub mod catalog;
pub mod generated;
pub mod filter;
pub mod visibility;
pub mod settings;
pub mod source;
pub mod payload;
pub mod registry;
pub mod measures;
mod engine;
pub mod hub;

pub use change::Action;
pub use hub::Hub;
pub use measures::{Dropped, Measures};
pub use settings::ChangesSettings;
pub use wish::{FilterText, Operator, Wanted, Wish};
