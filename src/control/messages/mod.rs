//! Messages of tenants' databases.

pub mod replay;

pub use replay::replay;
