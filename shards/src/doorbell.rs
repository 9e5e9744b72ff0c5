//! Sleeping without missing mail: the two halves of the handshake between a thread that goes to sleep and one that
//! has just pushed something for it.
//!
//! The sleeper publishes that it sleeps, then looks at its mailboxes once more; the pusher pushes, then looks whether
//! the sleeper sleeps. Each writes before it reads, with a full fence between (Dekker), so at least one of them sees
//! the other: either the sleeper finds the mail or the pusher rings. (`no_letter_is_left_behind` in
//! `tests/spsc_loom.rs`, every interleaving.) How a ring reaches the sleeper is the caller's business.

use crate::atomic::{AtomicBool, Ordering, fence};

/// Whether a thread sleeps.
#[derive(Debug)]
pub(crate) struct Doorbell {
    sleeping: AtomicBool,
}

impl Doorbell {
    /// A doorbell of a thread that is awake.
    pub(crate) fn new() -> Self {
        Self {
            sleeping: AtomicBool::new(false),
        }
    }

    /// The sleeper is about to wait. It must look at everything it could be rung for *after* this, and call
    /// [`Doorbell::awake`] instead of waiting if it finds something.
    pub(crate) fn asleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper is awake and will look at everything before it sleeps again.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// The pusher has pushed. Returns whether the sleeper must be rung; only one pusher is told so.
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        // Only a sleeper's `true` is overwritten: a blind swap could undo a later `asleep`, as far as loom can tell.
        self.sleeping.load(Ordering::Relaxed)
            && self
                .sleeping
                .compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}
