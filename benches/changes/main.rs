//! A row change on the control core, hops 2 to 7: from a message of the replication stream to the `data` that clients read.
//!
//! The table is the one that the guides of Supabase begin with, `todos`. What PostgreSQL is asked on the way is not here (`loadtest`
//! has it), nor is what a shard does with the result (`benches/shard/row_changes.rs`).

mod filters;
mod registry;
mod rows;
mod table;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    rows::decode,
    rows::assemble,
    rows::payload,
    registry::place,
    registry::candidates,
    filters::eval
);
criterion_main!(benches);
