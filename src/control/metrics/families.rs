//! What is said of a tenant: every family with its name, its meaning, and where its value is counted.
//!
//! Names are the original's where it counts the same (spec: metrics 2, 3, 6). All others are ours: they say what they count, in
//! seconds and bytes, and counters end in `_total`.

use super::exposition::Kind::{self, Counter, Gauge};
use super::exposition::Value::{self, Integer, Micros, Millis};
use crate::control::{changes, messages};

/// A number that is read from an `M`: one series per tenant that has one.
pub struct Family<M> {
    /// The metric.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
    /// Reads it.
    pub read: fn(&M) -> Value,
}

/// Changes that the original skips for one reason only. The same number is among [`DROPPED_CHANGES`].
pub const SKIPPED: (&str, &str) = (
    "realtime_replication_poller_changes_skip",
    "Row changes that nobody got since the tenant's limit of events was reached.",
);

/// Changes that somebody did not get, by reason.
pub const DROPPED_CHANGES: (&str, &str) = (
    "realtime_postgres_changes_dropped_total",
    "Row changes that did not reach somebody who had asked for them; with reason no_verdict, checks of one that had no answer.",
);

/// Rows that were not broadcast, by reason.
pub const DROPPED_MESSAGES: (&str, &str) = (
    "realtime_broadcast_from_database_dropped_total",
    "Rows of realtime.messages that were not broadcast.",
);

/// Of tenants whose channels have listened to row changes.
pub const CHANGES: &[Family<changes::Measures>] = &[
    Family {
        name: "realtime_subscriptions_manager_subscribers",
        kind: Gauge,
        help: "Subscriptions to row changes now.",
        read: |of| Integer(of.subscriptions.get()),
    },
    Family {
        name: "realtime_postgres_changes_seen_total",
        kind: Counter,
        help: "Row changes of tables that somebody had subscribed to.",
        read: |of| Integer(of.seen.get()),
    },
    Family {
        name: "realtime_postgres_changes_delivered_total",
        kind: Counter,
        help: "Those of them that reached a subscriber.",
        read: |of| Integer(of.delivered.get()),
    },
    Family {
        name: "realtime_postgres_changes_batches_total",
        kind: Counter,
        help: "Batches of row changes that were decided.",
        read: |of| Integer(of.batches.get()),
    },
    Family {
        name: "realtime_postgres_changes_deciding_seconds_total",
        kind: Counter,
        help: "Time from a batch to its letters for the shards, checks of row level security included.",
        read: |of| Micros(of.deciding_us.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_checks_total",
        kind: Counter,
        help: "Questions about row level security: one per batch, table, role and set of claims.",
        read: |of| Integer(of.visibility.checks.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_keys_total",
        kind: Counter,
        help: "Keys of rows that were asked about with them.",
        read: |of| Integer(of.visibility.keys.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_seconds_total",
        kind: Counter,
        help: "Time that batches waited for the answers.",
        read: |of| Micros(of.visibility.time_us.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_transactions_total",
        kind: Counter,
        help: "Transactions that asked.",
        read: |of| Integer(of.visibility.transactions.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_bisections_total",
        kind: Counter,
        help: "Those of them that looked for the row on which a policy had failed.",
        read: |of| Integer(of.visibility.bisections.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_connections_total",
        kind: Counter,
        help: "Connections that were opened to ask.",
        read: |of| Integer(of.visibility.connections.get()),
    },
    Family {
        name: "realtime_postgres_changes_rls_connections_given_up_total",
        kind: Counter,
        help: "Those of them that were given up with a question on them.",
        read: |of| Integer(of.visibility.given_up.get()),
    },
    Family {
        name: "realtime_postgres_changes_lag_seconds",
        kind: Gauge,
        help: "Time between the last delivered commit and when it was handed to the shards.",
        read: |of| Millis(of.lag_ms.get()),
    },
    Family {
        name: "realtime_postgres_changes_lag_bytes",
        kind: Gauge,
        help: "Write-ahead log between what is done and its end, when last looked at.",
        read: |of| Integer(of.source.lag_bytes.get()),
    },
    Family {
        name: "realtime_postgres_changes_retained_wal_bytes",
        kind: Gauge,
        help: "Write-ahead log that the database keeps for the slot, when last looked at.",
        read: |of| Integer(of.source.retained_bytes.get()),
    },
    Family {
        name: "realtime_postgres_changes_gaps_total",
        kind: Counter,
        help: "Times that changes may have been missed, and subscribers were told.",
        read: |of| Integer(of.gaps.get()),
    },
    Family {
        name: "realtime_postgres_changes_slots_total",
        kind: Counter,
        help: "Replication slots that were made.",
        read: |of| Integer(of.source.slots.get()),
    },
    Family {
        name: "realtime_postgres_changes_streams_total",
        kind: Counter,
        help: "Times that reading the slot was started.",
        read: |of| Integer(of.source.streams.get()),
    },
    Family {
        name: "realtime_postgres_changes_stream_messages_total",
        kind: Counter,
        help: "Row changes that the database has said, those that came again after a break included.",
        read: |of| Integer(of.source.messages.get()),
    },
    Family {
        name: "realtime_postgres_changes_stream_bytes_total",
        kind: Counter,
        help: "Their bytes.",
        read: |of| Integer(of.source.bytes.get()),
    },
];

/// Of tenants whose database was needed.
pub const MESSAGES: &[Family<messages::Measures>] = &[
    Family {
        name: "realtime_broadcast_from_database_delivered_total",
        kind: Counter,
        help: "Rows of realtime.messages that were broadcast.",
        read: |of| Integer(of.delivered.get()),
    },
    Family {
        name: "realtime_broadcast_from_database_read_from_table_total",
        kind: Counter,
        help: "Those of them that were read from the table, since no stream had said them.",
        read: |of| Integer(of.read_from_table.get()),
    },
    Family {
        name: "realtime_broadcast_from_database_too_old_total",
        kind: Counter,
        help: "Rows that were found too late to be broadcast.",
        read: |of| Integer(of.too_old.get()),
    },
    Family {
        name: "realtime_broadcast_from_database_streams_total",
        kind: Counter,
        help: "Streams that were started.",
        read: |of| Integer(of.streams.get()),
    },
    Family {
        name: "realtime_broadcast_from_database_lag_seconds",
        kind: Gauge,
        help: "Time between the last commit and when its last row was handed to the shards.",
        read: |of| Millis(of.lag.get().ms),
    },
    Family {
        name: "realtime_broadcast_from_database_lag_bytes",
        kind: Gauge,
        help: "Write-ahead log between what was said and its end, when last looked at.",
        read: |of| Integer(of.lag.get().bytes),
    },
];
