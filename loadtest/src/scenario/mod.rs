//! The loads: one file each, and the harness threads under them.
//!
//! In: a target, a plan, a machine. Out: a [`crate::report::Run`] for each repetition.
//! Always holds: a harness thread is pinned, has a monoio runtime of its own and shares nothing
//! with the others but atomics.

pub mod threads;
pub mod memory;
mod fanout;
mod readers;
mod held;
pub mod broadcast;
pub mod connections;
pub mod joins;
pub mod rows;
pub mod database_broadcast;
pub mod changes;
pub mod slow_readers;
pub mod replay;
pub mod presence;
pub mod reconnect;
pub mod soak;

use std::time::Duration;

/// How long nothing may happen before a phase is given up.
fn stall() -> Duration {
    #[cfg(test)]
    return crate::fake::stall();
    #[cfg(not(test))]
    Duration::from_secs(10)
}
