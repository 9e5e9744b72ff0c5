//! What is counted: numbers that one thread writes and any thread may read.
//!
//! What comes in: additions of the owner. What goes out: some recent value, to whoever asks. What always holds: counting is a load and a
//! store, without a lock, a locked instruction or an allocation; what two threads write does not share a cache line
//! ([`ShardMetrics`] is aligned). Deliberately absent: names, and what a number means to the product.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer. Two threads that write the same one lose additions.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`; wraps around, so that adding the difference of a smaller and a larger number takes away.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Takes `n` away.
    pub fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Replaces the number.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Replaces the number by a larger one.
    pub fn raise(&self, n: u64) {
        if n > self.get() {
            self.set(n);
        }
    }

    /// The number, or one that it was a moment ago.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many values were at most as large as each of `N` bounds. One writer, as [`Count`].
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    /// Values above the bound before and not above this one; those above all are in `above`.
    counts: [Count; N],
    above: Count,
    sum: Count,
}

impl<const N: usize> Histogram<N> {
    /// Without a value. `bounds` ascend.
    #[must_use]
    pub const fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: [const { Count::new() }; N],
            above: Count::new(),
            sum: Count::new(),
        }
    }

    /// One more value.
    pub fn observe(&self, value: u64) {
        self.observe_many(value, 1);
    }

    /// The same value `n` times.
    pub fn observe_many(&self, value: u64, n: u64) {
        let place = self.bounds.iter().position(|bound| value <= *bound);
        place
            .map_or(&self.above, |place| &self.counts[place])
            .add(n);
        self.sum.add(value.wrapping_mul(n));
    }

    /// What it says now.
    #[must_use]
    pub fn tally(&self) -> Tally<N> {
        let mut tally = Tally::new(self.bounds);
        tally.add(self);
        tally
    }
}

/// What histograms with the same bounds said at one moment, added up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tally<const N: usize> {
    /// The bounds.
    pub bounds: &'static [u64; N],
    /// Values above the bound before and not above this one.
    pub counts: [u64; N],
    /// Values above all bounds.
    pub above: u64,
    /// All values together.
    pub sum: u64,
}

impl<const N: usize> Tally<N> {
    /// Without a value.
    #[must_use]
    pub const fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: [0; N],
            above: 0,
            sum: 0,
        }
    }

    /// Adds what a histogram says now.
    pub fn add(&mut self, histogram: &Histogram<N>) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum = sum.wrapping_add(count.get());
        }
        self.above = self.above.wrapping_add(histogram.above.get());
        self.sum = self.sum.wrapping_add(histogram.sum.get());
    }

    /// Adds another one.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.wrapping_add(*count);
        }
        self.above = self.above.wrapping_add(other.above);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts
            .iter()
            .fold(self.above, |sum, count| sum.wrapping_add(*count))
    }
}

/// Bytes of the connections that share it ([`Io::count_traffic`](crate::Io::count_traffic)).
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes that arrived.
    pub received: Count,
    /// Bytes that the kernel took.
    pub sent: Count,
}

/// Bounds of [`ShardMetrics::turn_ns`], in nanoseconds: 100 µs to 1 s.
pub const TURN_NS_BOUNDS: [u64; 5] = [100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// What a shard counts about itself since its start. What is said to be a number of now goes up and down, all others only grow.
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Turns of the loop.
    pub turns: Count,
    /// How long turns took in nanoseconds, the wait for events not counted.
    pub turn_ns: Histogram<5>,
    /// The longest of them.
    pub turn_ns_max: Count,
    /// Completions (or, on epoll, their like) that were taken.
    pub completions: Count,
    /// Sends that were started; one carries everything that was queued for its socket.
    pub sends: Count,
    /// Buffers that were copied together with others into one send.
    pub coalesced: Count,
    /// Sockets that were half-closed, to wait for their peer's FIN.
    pub half_closes: Count,
    /// Bytes received.
    pub bytes_in: Count,
    /// Bytes the kernel took.
    pub bytes_out: Count,
    /// Bytes that wait to be sent now, over all sockets. A buffer counts once for each socket that it waits for.
    pub bytes_queued: Count,
    /// Sockets accepted.
    pub accepts: Count,
    /// Accepts that failed, among them those without a free slot or descriptor.
    pub accept_errors: Count,
    /// Sockets now, those that are closing included.
    pub sockets: Count,
    /// Those of them now that the product has.
    pub connections: Count,
    /// Times that a sleeping thread was woken by this shard.
    pub doorbells_rung: Count,
    /// Times that this shard was woken by another thread.
    pub doorbells_heard: Count,
    /// Receives that ended for want of a buffer (ENOBUFS) and were parked.
    pub receives_parked: Count,
    /// Times that the completion queue overflowed.
    pub completion_overflows: Count,
    /// Letters handed to a mailbox, or kept for one that was full.
    pub mail_sent: Count,
    /// Letters taken out of mailboxes.
    pub mail_received: Count,
    /// Letters that found their mailbox full and had to wait here.
    pub mail_spilled: Count,
    /// Those that wait now.
    pub mail_waiting: Count,
    /// Turns in which input was held back because too much mail was waiting.
    pub turns_held: Count,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            turns: Count::new(),
            turn_ns: Histogram::new(&TURN_NS_BOUNDS),
            turn_ns_max: Count::new(),
            completions: Count::new(),
            sends: Count::new(),
            coalesced: Count::new(),
            half_closes: Count::new(),
            bytes_in: Count::new(),
            bytes_out: Count::new(),
            bytes_queued: Count::new(),
            accepts: Count::new(),
            accept_errors: Count::new(),
            sockets: Count::new(),
            connections: Count::new(),
            doorbells_rung: Count::new(),
            doorbells_heard: Count::new(),
            receives_parked: Count::new(),
            completion_overflows: Count::new(),
            mail_sent: Count::new(),
            mail_received: Count::new(),
            mail_spilled: Count::new(),
            mail_waiting: Count::new(),
            turns_held: Count::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_at_the_first_bound_that_they_do_not_pass() {
        static BOUNDS: [u64; 3] = [10, 20, 30];
        let histogram = Histogram::new(&BOUNDS);
        for value in [0, 10, 11, 20, 31] {
            histogram.observe(value);
        }
        histogram.observe_many(30, 4);
        let tally = histogram.tally();
        assert_eq!((tally.counts, tally.above), ([2, 2, 4], 1));
        assert_eq!((tally.sum, tally.count()), (72 + 120, 9));
        let mut both = tally.clone();
        both.merge(&tally);
        both.add(&histogram);
        assert_eq!((both.counts, both.above), ([6, 6, 12], 3));
        assert_eq!((both.sum, both.count()), (3 * 192, 27));
    }

    #[test]
    fn a_count_goes_both_ways() {
        let count = Count::new();
        count.add(7);
        count.add(3_u64.wrapping_sub(4));
        count.sub(1);
        assert_eq!(count.get(), 5);
        count.raise(4);
        assert_eq!(count.get(), 5);
        count.raise(6);
        assert_eq!(count.get(), 6);
    }
}
