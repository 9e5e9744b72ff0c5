//! What the shards say of themselves at one moment, as numbers that go together.

use crate::metrics::{Figures, Instruments, ShardMetrics, Tally};

/// A shard at one moment. What is said to be total only grows.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Its kernel interface, if that is known.
    pub driver: Option<&'static str>,
    /// Open connections.
    pub connections: u64,
    /// Joined channels.
    pub channels: u64,
    /// Topics whose messages it puts into order.
    pub topics: u64,
    /// How long turns took, in nanoseconds.
    pub turn_ns: Tally<5>,
    /// The longest of them.
    pub turn_ns_max: u64,
    /// Bytes that wait to be sent.
    pub outbox_bytes: u64,
    /// Letters that wait for room in a mailbox.
    pub letters_waiting: u64,
    /// Messages of channels that were handled, total.
    pub messages_total: u64,
    /// Sends that were started, total.
    pub sends_total: u64,
    /// Bytes received, total.
    pub received_bytes_total: u64,
    /// Bytes that the kernel took, total.
    pub sent_bytes_total: u64,
    /// Readers that were closed because they could not keep up, total.
    pub slow_readers_closed_total: u64,
}

impl Reading {
    /// Reads all shards, in their order.
    #[must_use]
    pub fn of_all(instruments: &Instruments) -> Vec<Self> {
        let shards = instruments.runtime.iter().zip(instruments.board.shards());
        let mut drivers = instruments.drivers.iter().copied();
        shards
            .map(|(runtime, figures)| Self::of(runtime, figures, drivers.next()))
            .collect()
    }

    fn of(runtime: &ShardMetrics, figures: &Figures, driver: Option<&'static str>) -> Self {
        Self {
            driver,
            connections: runtime.connections.get(),
            channels: figures.channels.get(),
            topics: figures.topics_owned.get(),
            turn_ns: runtime.turn_ns.tally(),
            turn_ns_max: runtime.turn_ns_max.get(),
            outbox_bytes: runtime.bytes_queued.get(),
            letters_waiting: runtime.mail_waiting.get(),
            messages_total: figures.handled_ms.tally().count(),
            sends_total: runtime.sends.get(),
            received_bytes_total: runtime.bytes_in.get(),
            sent_bytes_total: runtime.bytes_out.get(),
            slow_readers_closed_total: figures.slow.iter().map(|count| count.get()).sum(),
        }
    }
}
