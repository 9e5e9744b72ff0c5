//! Rows of `realtime.messages` as broadcasts, while everything that can break does.
//!
//! The room `control::messages` runs as it does in the server, against a database of the test's own; what it hands to the shards is read
//! where they would get it.

pub mod chaos;
pub mod faults;
pub mod pooler;
pub mod rows;
mod station;
