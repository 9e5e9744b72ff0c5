//! What is counted of a tenant for the metrics alone: sizes, errors, and how long its database takes.
//!
//! What comes in: values, from the thread that a [`Measures`] belongs to. What goes out: the same as histograms and sums. What always
//! holds: nothing is allocated for a tenant of which nothing is counted, and once for one of which something is. Deliberately absent:
//! adding up threads (`quota`).

use crate::error::ErrorCode;
use crate::metrics::{
    ASKED_MS_BOUNDS, Count, Histogram, LATENCY_MS_BOUNDS, Relayed, Tally, WIDE_BOUNDS,
};
use std::sync::OnceLock;

/// What one thread counts of a tenant.
#[derive(Debug)]
pub(super) struct Measures {
    /// Sizes of relayed messages in bytes.
    payloads: [Histogram<11>; Relayed::ALL.len()],
    /// By the number of the code. Most tenants never have one.
    errors: OnceLock<Box<[Count]>>,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            payloads: [const { Histogram::new(&WIDE_BOUNDS) }; Relayed::ALL.len()],
            errors: OnceLock::new(),
        }
    }
}

impl Measures {
    pub(super) fn count_payload(&self, what: Relayed, bytes: usize) {
        self.payloads[what as usize].observe(bytes as u64);
    }

    pub(super) fn payloads(&self, what: Relayed) -> Tally<11> {
        self.payloads[what as usize].tally()
    }

    pub(super) fn count_error(&self, code: ErrorCode) {
        let errors = self
            .errors
            .get_or_init(|| ErrorCode::ALL.iter().map(|_| Count::new()).collect());
        errors[code as usize].add(1);
    }

    pub(super) fn errors_total(&self) -> u64 {
        let errors = self.errors.get().map_or(&[][..], |errors| errors);
        errors.iter().map(Count::get).sum()
    }

    pub(super) fn errors(&self, code: ErrorCode) -> u64 {
        self.errors
            .get()
            .map_or(0, |errors| errors[code as usize].get())
    }
}

/// How long a tenant's database takes, in milliseconds (spec: metrics 5).
#[derive(Debug)]
pub struct Latencies {
    /// Asking what a token may read.
    pub read_authorization: Histogram<4>,
    /// Asking what it may write.
    pub write_authorization: Histogram<4>,
    /// Reading kept messages for a join.
    pub replay: Histogram<4>,
    /// From the commit of a row of `realtime.messages` to its broadcast.
    pub committed_to_broadcast: Histogram<3>,
    /// From the time in its `inserted_at` to its broadcast.
    pub inserted_to_broadcast: Histogram<3>,
    /// Deciding who gets the changes of a batch.
    pub changes: Histogram<11>,
}

impl Default for Latencies {
    fn default() -> Self {
        let asked = || Histogram::new(&ASKED_MS_BOUNDS);
        let way = || Histogram::new(&LATENCY_MS_BOUNDS);
        Self {
            read_authorization: asked(),
            write_authorization: asked(),
            replay: asked(),
            committed_to_broadcast: way(),
            inserted_to_broadcast: way(),
            changes: Histogram::new(&WIDE_BOUNDS),
        }
    }
}
