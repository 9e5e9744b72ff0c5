//! The atomics that `doorbell.rs` and `mesh.rs` use. `tests/spsc_loom.rs` compiles `doorbell.rs` with a module of this
//! name that has loom's.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicI32, Ordering, fence};
