//! One customer as a shard sees it: an immutable snapshot of its settings and keys, and the counters that live longer than one
//! snapshot.
//!
//! What comes in: a tenant's record from the store of record (the control core reads it). What goes out: `Arc<Tenant>`, mailed
//! to every shard and replaced whole on change. What always holds: a snapshot never changes; [`Usage`] is the same object in every
//! snapshot of one tenant (`a_changed_record_keeps_number_and_counters`, in `control::tenants`). Deliberately absent: how tenants are stored and edited.

mod directory;
mod admission;
mod measures;
mod quota;

pub use admission::admit;
pub use directory::TenantDirectory;
pub use measures::Latencies;
pub use quota::{Counter, RateMeter, RateWindow, Usage};

use crate::auth::Verifier;
use crate::limits;
use std::sync::Arc;

/// Names a tenant within this process. Ids are given out by the control core and never used twice.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct TenantId(pub u32);

/// What a tenant may use. Names and defaults: spec, http-api 3.4.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct TenantLimits {
    /// `max_concurrent_users`: sockets that have joined a channel.
    pub users_max: u32,
    /// `max_joins_per_second`, an average over the rate window.
    pub joins_per_second_max: u32,
    /// `max_channels_per_client`: channels of one socket.
    pub channels_per_socket_max: u32,
    /// `max_events_per_second`, an average over the rate window.
    pub events_per_second_max: u32,
    /// `max_presence_events_per_second`, an average over the rate window.
    pub presence_events_per_second_max: u32,
    /// Largest payload in bytes of Erlang's external term size: `max_payload_size_in_kb` x 1000 + 500 (spec 9.4).
    pub payload_bytes_max: usize,
    /// Presence calls of one channel per window: the tenant's own setting, or `CLIENT_PRESENCE_MAX_CALLS`.
    pub client_presence_calls_max: u32,
    /// That window in milliseconds: the tenant's own setting, or `CLIENT_PRESENCE_WINDOW_MS`.
    pub client_presence_window_ms: u32,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self {
            users_max: 200,
            joins_per_second_max: 100,
            channels_per_socket_max: 100,
            events_per_second_max: 100,
            presence_events_per_second_max: 1000,
            payload_bytes_max: Self::payload_bytes(3000),
            client_presence_calls_max: 5,
            client_presence_window_ms: 30_000,
        }
    }
}

impl TenantLimits {
    /// `max_payload_size_in_kb` as the bytes that a payload may measure (spec 9.4).
    #[must_use]
    pub const fn payload_bytes(payload_kb_max: u32) -> usize {
        payload_kb_max as usize * 1000 + limits::PAYLOAD_SLACK_BYTES
    }
}

/// A tenant's settings at one moment.
#[derive(Debug)]
pub struct Tenant {
    /// Its number in this process.
    pub id: TenantId,
    /// Its name: the first label of the host that clients connect to.
    pub external_id: Arc<str>,
    /// Checks its tokens.
    pub verifier: Verifier,
    /// What it may use.
    pub limits: TenantLimits,
    /// `suspend`: upgrades and broadcasts are refused.
    pub suspended: bool,
    /// `private_only`: public channels are refused.
    pub private_only: bool,
    /// `presence_enabled`: presence is on for every channel.
    pub presence_enabled: bool,
    /// Whether it has a database of its own: without one the database step of a public join is skipped, and whatever needs one is
    /// answered as if it could not be reached (spec: README, operations).
    pub has_database: bool,
    /// Its counters.
    pub usage: Arc<Usage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_payload_limit_is_three_megabytes_and_the_slack() {
        assert_eq!(TenantLimits::default().payload_bytes_max, 3_000_500);
        assert_eq!(TenantLimits::payload_bytes(1), 1_500);
    }
}
