//! What the threads count: numbers that one thread writes and the control core reads when somebody wants to know.
//!
//! What comes in: additions of the rooms where things happen. What goes out: [`Instruments`], for `control::metrics`. What always holds:
//! counting costs a load and a store and never waits, allocates or sends a letter; a number has one writer, so each shard has
//! [`Figures`] of its own and the control core has the last ones of the [`Board`]. Deliberately absent: names that Prometheus reads,
//! and what is counted of a tenant (`tenant::Usage`).

use crate::phoenix::Vsn;
pub use shards::{Count, Histogram, ShardMetrics, Tally, Traffic};
use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of how long something takes that should take no time at all, in milliseconds (spec: metrics 2).
pub const HANDLED_MS_BOUNDS: [u64; 6] = [10, 100, 500, 1000, 5000, 10_000];

/// Bounds of payloads, in bytes, and of what is asked of a database for row changes, in milliseconds (spec: metrics 4, 5).
pub const WIDE_BOUNDS: [u64; 11] = [
    250, 500, 1000, 3000, 5000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 3_000_000,
];

/// Bounds of questions to a tenant's database, in milliseconds (spec: metrics 5).
pub const ASKED_MS_BOUNDS: [u64; 4] = [10, 250, 5000, 15_000];

/// Bounds of the way of a row to its broadcast, in milliseconds (spec: metrics 5).
pub const LATENCY_MS_BOUNDS: [u64; 3] = [10, 250, 5000];

macro_rules! labels {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $what:literal])+ $variant:ident $label:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Copy, Clone, Debug, Eq, PartialEq)]
        pub enum $name {
            $($(#[doc = $what])+ $variant,)+
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name as the value of a label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

labels! {
    /// Why a connection got no WebSocket.
    Refused {
        /// Its request makes no sense here.
        Malformed "malformed",
        /// Its request did not arrive in time.
        Late "late",
        /// `MAX_CONNECTIONS` are open.
        TooManyConnections "too_many_connections",
        /// Too many requests wait for the control core.
        ControlCoreBusy "control_core_busy",
        /// There is no such tenant.
        TenantNotFound "tenant_not_found",
        /// The tenant is suspended.
        Suspended "suspended",
        /// It brought no token, or one that is no good.
        Token "token",
        /// The tenant has as many users as it may have.
        TooManyUsers "too_many_users",
        /// The tenant's joins have tripped their limit.
        TooManyJoins "too_many_joins",
    }
}

labels! {
    /// Why a reader that could not keep up was closed.
    Slow {
        /// More waited for it than may wait.
        Full "queue_full",
        /// It has read nothing for long.
        Stalled "stalled",
    }
}

labels! {
    /// What is relayed to the members of a topic.
    Relayed {
        /// Broadcasts of clients, HTTP and the database.
        Broadcast "broadcast",
        /// Differences of presence.
        Presence "presence",
        /// Row changes.
        PostgresChanges "postgres_changes",
    }
}

/// What one thread counts of the product, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Figures {
    /// Channels that are joined now.
    pub channels: Count,
    /// Topics that this shard owns now.
    pub topics_owned: Count,
    /// Joins that were answered with `ok`.
    pub joins_ok: Count,
    /// Joins that were refused.
    pub joins_refused: Count,
    /// How long the turns took in which messages of channels were handled, once per message, in milliseconds.
    pub handled_ms: Histogram<6>,
    /// The same for upgrades that were answered with 101, by serializer.
    pub upgraded_ms: [Histogram<6>; 2],
    /// How long upgrades waited for their refusal, by serializer, in milliseconds.
    pub refused_ms: [Histogram<6>; 2],
    /// Connections that got no WebSocket.
    pub refused: [Count; Refused::ALL.len()],
    /// Readers that were closed because they could not keep up.
    pub slow: [Count; Slow::ALL.len()],
    /// Lines that the log's gate has held back.
    pub lines_suppressed: Count,
}

const fn handled() -> Histogram<6> {
    Histogram::new(&HANDLED_MS_BOUNDS)
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            channels: Count::new(),
            topics_owned: Count::new(),
            joins_ok: Count::new(),
            joins_refused: Count::new(),
            handled_ms: handled(),
            upgraded_ms: [handled(), handled()],
            refused_ms: [handled(), handled()],
            refused: [const { Count::new() }; Refused::ALL.len()],
            slow: [const { Count::new() }; Slow::ALL.len()],
            lines_suppressed: Count::new(),
        }
    }
}

impl Figures {
    /// Counts a connection that gets no WebSocket.
    pub fn count_refused(&self, why: Refused) {
        self.refused[why as usize].add(1);
    }

    /// Counts an upgrade that was understood and is refused, with an answer that waits for so long.
    pub fn count_refused_upgrade(&self, vsn: Vsn, wait: Duration) {
        self.refused_ms[vsn as usize].observe(millis(wait));
    }
}

/// Whole milliseconds, as the histograms count them.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The figures of all threads: the shards in their order, and the control core as the last one. Clones are the same.
#[derive(Clone, Debug)]
pub struct Board(Arc<[Figures]>);

impl Board {
    /// For so many shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self((0..=shards).map(|_| Figures::default()).collect())
    }

    /// The figures of the control core.
    #[must_use]
    pub fn control(&self) -> &Figures {
        &self[self.0.len() - 1]
    }

    /// Those of the shards.
    #[must_use]
    pub fn shards(&self) -> &[Figures] {
        &self.0[..self.0.len() - 1]
    }
}

impl Index<usize> for Board {
    type Output = Figures;

    fn index(&self, thread: usize) -> &Figures {
        &self.0[thread]
    }
}

/// What the control core counts of itself, and nobody else has.
#[derive(Debug, Default)]
pub struct ControlFigures {
    /// Letters now that wait for room in the mailbox of a shard.
    pub letters_unsent: Count,
    /// HTTP connections now.
    pub http_connections: Count,
}

/// Everything that the threads count which is not a tenant's.
#[derive(Clone, Debug)]
pub struct Instruments {
    /// Of the product.
    pub board: Board,
    /// Of the control core.
    pub control: Arc<ControlFigures>,
    /// Of the runtime, shard by shard.
    pub runtime: Arc<[Arc<ShardMetrics>]>,
    /// The kernel interface of each shard.
    pub drivers: Arc<[&'static str]>,
}

impl Instruments {
    /// Of shards that are not there, for tests.
    #[must_use]
    pub fn for_test(shards: usize) -> Self {
        Self {
            board: Board::new(shards),
            control: Arc::default(),
            runtime: (0..shards).map(|_| Arc::default()).collect(),
            drivers: (0..shards).map(|_| "sim").collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_figures_of_its_own() {
        let board = Board::new(2);
        board[0].joins_ok.add(1);
        board.control().joins_ok.add(5);
        let joins: Vec<u64> = board.shards().iter().map(|of| of.joins_ok.get()).collect();
        assert_eq!(joins, [1, 0]);
        assert_eq!(board[2].joins_ok.get(), 5);
    }

    #[test]
    fn a_refusal_counts_by_its_reason_and_serializer() {
        let figures = Figures::default();
        figures.count_refused(Refused::Token);
        figures.count_refused(Refused::Late);
        figures.count_refused_upgrade(Vsn::V2, Duration::from_secs(2));
        let refused: Vec<u64> = figures.refused.iter().map(Count::get).collect();
        assert_eq!(refused, [0, 1, 0, 0, 0, 0, 1, 0, 0]);
        let of_v1 = figures.refused_ms[Vsn::V1 as usize].tally();
        let of_v2 = figures.refused_ms[Vsn::V2 as usize].tally();
        assert_eq!((of_v1.count(), of_v2.count(), of_v2.sum), (0, 1, 2000));
    }
}
