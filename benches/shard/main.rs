//! What the product's side of a shard costs: joins, broadcasts, presence and row changes, from received bytes to full outboxes.
//!
//! One file per subject; `bed.rs` is the shard and its clients. `cargo bench --bench shard` measures, and prints what a join and a
//! broadcast allocate; every other way to run it is a smoke test of a moment, with small crowds.

mod allocations;
mod bed;
mod fanout;
mod joins;
mod presence;
mod row_changes;
mod tokens;

use criterion::Criterion;
use std::io;
use std::time::Duration;

/// Crowds of these sizes when something is measured, and smaller ones in a test, which is built without optimization.
fn crowds(sizes: &[usize]) -> Vec<usize> {
    let mut crowds: Vec<usize> = sizes
        .iter()
        .map(|size| {
            if is_measured() {
                *size
            } else {
                size.div_ceil(100)
            }
        })
        .collect();
    crowds.dedup();
    crowds
}

/// Whether this is `cargo bench`.
fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

fn main() -> io::Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    fanout::bench(&mut criterion);
    joins::bench(&mut criterion);
    tokens::bench(&mut criterion);
    presence::bench(&mut criterion);
    row_changes::bench(&mut criterion);
    criterion.final_summary();
    let mut out = io::stdout();
    presence::print_longest_turns(&mut out)?;
    allocations::print(&mut out)
}
