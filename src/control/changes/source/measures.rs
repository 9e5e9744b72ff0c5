//! What reading a tenant's row changes has done so far, and how far it is behind.

use std::cell::Cell;

/// Counters of one tenant, over all of its sources since the process began.
#[derive(Debug, Default)]
pub struct Measures {
    /// Connections that read the slot.
    pub streams: Cell<u64>,
    /// Slots that were made.
    pub slots: Cell<u64>,
    /// Slots that were lost or given up after something was promised of them: what was committed until the next one may be missing.
    pub gaps: Cell<u64>,
    /// Row changes that the database has said, those that come again after a break included.
    pub messages: Cell<u64>,
    /// Their bytes.
    pub bytes: Cell<u64>,
    /// Words that were dropped after a break, since they were done.
    pub skipped: Cell<u64>,
    /// Bytes of the write-ahead log between what is done and its end, when they were last looked at.
    pub lag_bytes: Cell<u64>,
    /// Bytes of the write-ahead log that the database keeps for the slot, when they were last looked at.
    pub retained_bytes: Cell<u64>,
}
