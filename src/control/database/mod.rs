//! One tenant's database.

pub mod partitions;
pub mod migrate;
