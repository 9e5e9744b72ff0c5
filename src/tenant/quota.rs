//! What a tenant has used: connected users, the rate counters of spec 9.2, and what else is counted of it for the metrics.
//!
//! Every thread adds to a cell of its own, so counting costs a load and a store and no bus lock; the control core adds the cells up
//! at each tick and publishes average and flag. Between ticks nothing changes, as the spec demands.
//!
//! # Invariants
//!
//! - The number of connected users is exact at any moment and never above the limit that was asked with.
//!   (`users_never_pass_the_limit`)
//! - A counter's flag and average change only in [`Usage::publish`], which the control core calls at a tick.
//! - A cell is written by one thread only; reading a cell from elsewhere sees some recent value.

use super::measures::{Latencies, Measures};
use crate::error::ErrorCode;
use crate::limits;
use crate::metrics::{Count, Relayed, Tally, Traffic};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What is counted per second, per tenant.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Counter {
    /// Joins that reached the check (spec 9.3).
    Joins,
    /// Broadcasts sent and delivered, unknown events (spec 9.3).
    Events,
    /// Presence states, tracks, and diffs delivered (spec 9.3).
    PresenceEvents,
    /// Postgres changes times matching subscriptions.
    DbEvents,
}

impl Counter {
    /// All counters, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Joins,
        Self::Events,
        Self::PresenceEvents,
        Self::DbEvents,
    ];

    /// Whether `average` per second reaches `limit`. Presence alone may stand at its limit (spec 9.3).
    #[must_use]
    pub fn is_tripped(self, average: f64, limit: u32) -> bool {
        match self {
            Self::PresenceEvents => average > f64::from(limit),
            Self::Joins | Self::Events | Self::DbEvents => average >= f64::from(limit),
        }
    }
}

/// One thread's counts, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell {
    counts: [Count; Counter::ALL.len()],
    /// Bytes of its sockets on this thread; made with the first of them.
    traffic: OnceLock<Arc<Traffic>>,
    /// Made on first use as well: most tenants of a large installation are away.
    measures: OnceLock<Box<Measures>>,
}

const _: () = assert!(
    size_of::<Cell>() == 64,
    "there is one per tenant and thread: it fills one cache line"
);

/// What is written often stands on a cache line of its own, so that what every message reads does not travel with it.
#[derive(Debug)]
#[repr(align(64))]
struct OwnLine<T>(T);

/// What the control core publishes of one counter.
#[derive(Debug, Default)]
struct Published {
    /// Whether the counter exists: set by its first use, cleared when it was idle for long.
    running: AtomicBool,
    /// Whether the limit was reached at the last tick.
    tripped: AtomicBool,
    /// Average per second at the last tick, rounded down.
    average: AtomicU32,
}

/// A tenant's counters: one object for all threads and all snapshots of the tenant.
#[derive(Debug)]
pub struct Usage {
    users: OwnLine<AtomicU32>,
    cells: Box<[Cell]>,
    published: [Published; Counter::ALL.len()],
    /// Row changes of its database are being read; written by the control core alone.
    reads_changes: AtomicBool,
    /// What its database takes; written by the control core alone, and made on first use.
    latencies: OnceLock<Box<Latencies>>,
}

impl Usage {
    /// Counters for `threads` counting threads: the shards, and the control core as the last one.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            users: OwnLine(AtomicU32::new(0)),
            cells: (0..threads.max(1)).map(|_| Cell::default()).collect(),
            published: Default::default(),
            reads_changes: AtomicBool::new(false),
            latencies: OnceLock::new(),
        }
    }

    /// Counts one more connected user, unless `users_max` are connected.
    #[must_use]
    pub fn try_add_user(&self, users_max: u32) -> bool {
        self.users
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |users| {
                (users < users_max).then_some(users + 1)
            })
            .is_ok()
    }

    /// Takes back one connected user. The caller has added it before.
    pub fn remove_user(&self) {
        let before = self.users.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(
            before > 0,
            "a user is removed once for each time it was added"
        );
    }

    /// Users connected now.
    #[must_use]
    pub fn users(&self) -> u32 {
        self.users.0.load(Ordering::Relaxed)
    }

    /// Counts `n` events on the cell of `thread`. True when this use created the counter: the caller then tells the control core,
    /// which ticks it from now on.
    #[must_use]
    pub fn count(&self, thread: usize, counter: Counter, n: u64) -> bool {
        self.cells[thread].counts[counter as usize].add(n);
        let running = &self.published[counter as usize].running;
        !running.load(Ordering::Relaxed) && !running.swap(true, Ordering::Relaxed)
    }

    /// Everything counted since the start, over all threads.
    #[must_use]
    pub fn total(&self, counter: Counter) -> u64 {
        self.cells
            .iter()
            .map(|cell| cell.counts[counter as usize].get())
            .sum()
    }

    /// A number that changes whenever something is counted of the tenant: none of it means that nothing was.
    #[must_use]
    pub fn activity(&self) -> u64 {
        let (received, sent) = self.bytes();
        let counts = Counter::ALL.map(|counter| self.total(counter));
        let measures = self.cells.iter().filter_map(|cell| cell.measures.get());
        let errors = measures
            .map(|measures| measures.errors_total())
            .sum::<u64>();
        received + sent + counts.iter().sum::<u64>() + errors
    }

    /// Where bytes of its sockets on `thread` are counted.
    #[must_use]
    pub fn traffic(&self, thread: usize) -> &Arc<Traffic> {
        self.cells[thread].traffic.get_or_init(Arc::default)
    }

    /// Bytes received from its sockets and sent to them, since the start.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let traffic = self.cells.iter().filter_map(|cell| cell.traffic.get());
        traffic.fold((0, 0), |(received, sent), traffic| {
            (received + traffic.received.get(), sent + traffic.sent.get())
        })
    }

    /// Counts a message that is relayed to the members of a topic, by its payload's size (spec: metrics 4).
    pub fn count_payload(&self, thread: usize, what: Relayed, bytes: usize) {
        self.measures(thread).count_payload(what, bytes);
    }

    /// The sizes of such messages. None before the first.
    #[must_use]
    pub fn payloads(&self, what: Relayed) -> Option<Tally<11>> {
        let measures = self.cells.iter().filter_map(|cell| cell.measures.get());
        let tallies = measures.map(|measures| measures.payloads(what));
        tallies
            .reduce(|mut sum, tally| {
                sum.merge(&tally);
                sum
            })
            .filter(|sum| sum.count() > 0)
    }

    /// Counts an error that clients of the tenant have met (spec: errors-and-logs 4), whether its line is written or not.
    pub fn count_error(&self, thread: usize, code: ErrorCode) {
        self.measures(thread).count_error(code);
    }

    /// Such errors since the start, by code: those that have occurred.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        let measures = self.cells.iter().filter_map(|cell| cell.measures.get());
        let measures: Vec<&Measures> = measures
            .map(|measures| &**measures)
            .filter(|measures| measures.errors_total() > 0)
            .collect();
        let codes = if measures.is_empty() {
            &[]
        } else {
            ErrorCode::ALL
        };
        codes.iter().filter_map(move |code| {
            let count = measures.iter().map(|measures| measures.errors(*code)).sum();
            (count > 0).then_some((*code, count))
        })
    }

    /// Whether row changes of its database are being read, so that a channel which asks for some is told within a moment whether it
    /// gets them.
    #[must_use]
    pub fn reads_changes(&self) -> bool {
        self.reads_changes.load(Ordering::Relaxed)
    }

    /// To be said by the control core alone.
    pub fn set_reads_changes(&self, reads: bool) {
        self.reads_changes.store(reads, Ordering::Relaxed);
    }

    /// What its database takes. To be written by the control core alone.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(Box::default)
    }

    /// The same, if anything was measured.
    #[must_use]
    pub fn known_latencies(&self) -> Option<&Latencies> {
        self.latencies.get().map(|latencies| &**latencies)
    }

    fn measures(&self, thread: usize) -> &Measures {
        self.cells[thread].measures.get_or_init(Box::default)
    }

    /// Whether the limit was reached at the counter's last tick.
    #[must_use]
    pub fn is_tripped(&self, counter: Counter) -> bool {
        self.published[counter as usize]
            .tripped
            .load(Ordering::Relaxed)
    }

    /// Average per second at the counter's last tick, rounded down.
    #[must_use]
    pub fn average(&self, counter: Counter) -> u32 {
        self.published[counter as usize]
            .average
            .load(Ordering::Relaxed)
    }

    /// Publishes the outcome of a tick. True when the flag went up: the caller logs once.
    pub fn publish(&self, counter: Counter, average: f64, limit: u32) -> bool {
        let published = &self.published[counter as usize];
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and counts are not negative"
        )]
        published.average.store(average as u32, Ordering::Relaxed);
        let tripped = counter.is_tripped(average, limit);
        let before = published.tripped.swap(tripped, Ordering::Relaxed);
        tripped && !before
    }

    /// Discards a counter that was idle for long: the next use creates it anew.
    pub fn discard(&self, counter: Counter) {
        let published = &self.published[counter as usize];
        published.average.store(0, Ordering::Relaxed);
        published.tripped.store(false, Ordering::Relaxed);
        published.running.store(false, Ordering::Relaxed);
    }
}

/// The arithmetic of one rate counter, without a clock: the control core owns one for every running counter.
///
/// ```text
/// limit 100/s: tick 1 ms after creation -> buckets [0]; 1000 events in the next 5 s -> [1000, 0]
/// average = 1000 / 2 buckets / 5 s = 100 per second: tripped (spec 9.2)
/// ```
#[derive(Debug)]
pub struct RateMeter {
    window: RateWindow,
    total_before: u64,
    buckets: VecDeque<u64>,
    idle_ticks: u32,
}

/// The shape of a rate counter's memory.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct RateWindow {
    /// Time between two ticks.
    pub tick: Duration,
    /// Buckets that are kept.
    pub buckets_max: usize,
    /// Ticks in a row with nothing in any bucket after which the counter is discarded.
    pub idle_ticks_max: u32,
}

impl RateWindow {
    /// The counters of a [`Counter`].
    pub const USAGE: Self = Self {
        tick: limits::RATE_TICK,
        buckets_max: limits::RATE_BUCKETS_MAX,
        idle_ticks_max: limits::RATE_IDLE_TICKS_MAX,
    };

    /// The counter of HTTP requests (spec 9.3).
    pub const REQUESTS: Self = Self {
        tick: limits::REQUEST_TICK,
        buckets_max: limits::REQUEST_BUCKETS_MAX,
        idle_ticks_max: limits::REQUEST_IDLE_TICKS_MAX,
    };
}

impl RateMeter {
    /// A meter of [`RateWindow::USAGE`] whose first bucket holds what comes after `total_before`.
    #[must_use]
    pub fn new(total_before: u64) -> Self {
        Self::with_window(RateWindow::USAGE, total_before)
    }

    /// The same with another window.
    #[must_use]
    pub fn with_window(window: RateWindow, total_before: u64) -> Self {
        Self {
            window,
            total_before,
            buckets: VecDeque::with_capacity(window.buckets_max),
            idle_ticks: 0,
        }
    }

    /// Its window.
    #[must_use]
    pub fn window(&self) -> RateWindow {
        self.window
    }

    /// Closes a bucket at `total` events and returns the average per second over the window.
    pub fn tick(&mut self, total: u64) -> f64 {
        let bucket = total.wrapping_sub(self.total_before);
        self.total_before = total;
        if self.buckets.len() == self.window.buckets_max {
            self.buckets.pop_back();
        }
        self.buckets.push_front(bucket);
        let sum: u64 = self.buckets.iter().sum();
        self.idle_ticks = if sum == 0 { self.idle_ticks + 1 } else { 0 };
        #[expect(
            clippy::cast_precision_loss,
            reason = "an average of counts far below 2^52"
        )]
        let average = sum as f64 / self.buckets.len() as f64 / self.window.tick.as_secs_f64();
        average
    }

    /// Whether nothing was counted for so long that the counter is to be discarded.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle_ticks >= self.window.idle_ticks_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_never_pass_the_limit() {
        let usage = Usage::new(2);
        assert!(usage.try_add_user(2));
        assert!(usage.try_add_user(2));
        assert!(!usage.try_add_user(2));
        usage.remove_user();
        assert!(usage.try_add_user(2));
        assert_eq!(usage.users(), 2);
    }

    #[test]
    fn first_use_creates_the_counter_once() {
        let usage = Usage::new(2);
        assert!(usage.count(0, Counter::Joins, 1));
        assert!(!usage.count(1, Counter::Joins, 1));
        assert_eq!(usage.total(Counter::Joins), 2);
        usage.discard(Counter::Joins);
        assert!(usage.count(0, Counter::Joins, 1));
    }

    #[test]
    fn what_threads_count_adds_up() {
        let usage = Usage::new(2);
        assert_eq!(usage.bytes(), (0, 0));
        assert!(usage.payloads(Relayed::Presence).is_none());
        for thread in [0, 1] {
            usage.traffic(thread).received.add(10);
            usage.traffic(thread).sent.add(1);
            usage.count_payload(thread, Relayed::Broadcast, 250 + thread);
            usage.count_error(thread, ErrorCode::MalformedJWT);
        }
        usage.count_error(0, ErrorCode::Unauthorized);
        assert_eq!(usage.bytes(), (20, 2));
        let payloads = usage.payloads(Relayed::Broadcast).unwrap();
        assert_eq!(
            (payloads.counts[..2].to_vec(), payloads.sum),
            (vec![1, 1], 501)
        );
        assert!(usage.payloads(Relayed::Presence).is_none());
        let errors: Vec<_> = usage.errors().collect();
        let expected = [(ErrorCode::MalformedJWT, 2), (ErrorCode::Unauthorized, 1)];
        assert_eq!(errors, expected);
    }

    /// The worked example of spec 9.2.
    #[test]
    fn a_thousand_events_in_five_seconds_trip_a_limit_of_a_hundred() {
        let mut meter = RateMeter::new(0);
        assert!(meter.tick(0).abs() < f64::EPSILON);
        let average = meter.tick(1000);
        assert!((average - 100.0).abs() < f64::EPSILON);
        assert!(Counter::Events.is_tripped(average, 100));
        assert!(!Counter::Events.is_tripped(average, 101));
        assert!(!Counter::PresenceEvents.is_tripped(average, 100));
    }

    /// Spec 9.2: six joins at once under a presence limit of 1 trip within milliseconds.
    #[test]
    fn first_bucket_alone_makes_the_first_average() {
        let mut meter = RateMeter::new(0);
        let average = meter.tick(6);
        assert!(Counter::PresenceEvents.is_tripped(average, 1));
    }

    #[test]
    fn window_holds_twelve_buckets() {
        let mut meter = RateMeter::new(0);
        meter.tick(600);
        for _ in 0..11 {
            assert!(meter.tick(600) > 0.0);
        }
        assert!(meter.tick(600).abs() < f64::EPSILON);
    }

    #[test]
    fn flag_rises_once_per_transition() {
        let usage = Usage::new(1);
        assert!(usage.publish(Counter::Events, 5.0, 2));
        assert!(!usage.publish(Counter::Events, 5.0, 2));
        assert!(usage.is_tripped(Counter::Events));
        assert!(!usage.publish(Counter::Events, 1.9, 2));
        assert!(!usage.is_tripped(Counter::Events));
        assert_eq!(usage.average(Counter::Events), 1);
    }
}
