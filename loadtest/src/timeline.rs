//! What arrived when: one histogram of latency for each short interval of a run.
//!
//! In: latencies, with the time at which each message arrived. Out: all of them as one histogram, and
//! percentiles and throughput over time.
//! Always holds: a run has no more than `SLOTS_MAX` intervals; one that lasts longer than it said has the
//! rest in the last. Every thread's intervals begin at the same moments, so that they can be added up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::clock::now_ns;

/// Intervals of a run; each costs a thread 30 KB.
const SLOTS_MAX: usize = 600;

/// The shortest interval.
const INTERVAL_NS_MIN: u64 = 100_000_000;

/// When a measurement began, for all threads of a run.
#[derive(Debug, Default)]
pub struct Start {
    at_ns: AtomicU64,
    interval_ns: AtomicU64,
    /// How many intervals there will be.
    slots: AtomicUsize,
}

impl Start {
    /// Begins now a measurement that will last so long.
    pub fn begin(&self, seconds: f64) {
        let interval_ns = (seconds * 1e9) as u64 / SLOTS_MAX as u64;
        let interval_ns = interval_ns.max(INTERVAL_NS_MIN);
        let slots = (seconds * 1e9 / interval_ns as f64).round() as usize;
        self.slots
            .store(slots.clamp(1, SLOTS_MAX), Ordering::Release);
        self.interval_ns.store(interval_ns, Ordering::Release);
        self.at_ns.store(now_ns(), Ordering::Release);
    }

    /// An empty timeline of one thread. Only after [`Start::begin`] are its intervals those of the others.
    pub fn timeline(&self) -> Timeline {
        Timeline {
            start_ns: self.at_ns.load(Ordering::Acquire),
            interval_ns: self.interval_ns.load(Ordering::Acquire).max(1),
            slots_max: self.slots.load(Ordering::Acquire).max(1),
            slots: Vec::new(),
        }
    }
}

/// Latencies by the interval in which they ended.
#[derive(Clone, Debug)]
pub struct Timeline {
    start_ns: u64,
    interval_ns: u64,
    slots_max: usize,
    slots: Vec<Histogram<u64>>,
}

/// One interval, as it is printed and drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Its end, from when the measurement began.
    pub seconds: f64,
    /// Arrivals.
    pub per_second: f64,
    /// Half of them were faster; 0 when there were none.
    pub p50_us: f64,
    /// 95 of 100 were faster.
    pub p95_us: f64,
    /// 99 of 100 were faster.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Timeline {
    /// The interval that `now_ns` is in.
    #[inline]
    pub fn slot(&mut self, now_ns: u64) -> &mut Histogram<u64> {
        let index = now_ns.saturating_sub(self.start_ns) / self.interval_ns;
        let index = (index as usize).min(self.slots_max - 1);
        while self.slots.len() <= index {
            self.slots.push(histogram());
        }
        &mut self.slots[index]
    }

    /// Adds what another thread saw.
    pub fn add(&mut self, other: &Self) {
        for (index, slot) in other.slots.iter().enumerate() {
            if self.slots.len() <= index {
                self.slots.push(histogram());
            }
            merge(&mut self.slots[index], slot);
        }
    }

    /// All intervals together.
    pub fn total(&self) -> Histogram<u64> {
        let mut total = histogram();
        for slot in &self.slots {
            merge(&mut total, slot);
        }
        total
    }

    /// The histogram of all of them in bars, each a third wider than the one before it: milliseconds that it
    /// is up to, and how many it stands for. From the fastest to the slowest.
    pub fn bars(&self) -> Vec<(f64, u64)> {
        let total = self.total();
        let bars: Vec<(f64, u64)> = total
            .iter_log(1_000, 1.33)
            .map(|bar| {
                let up_to_ms = bar.value_iterated_to() as f64 / 1e6;
                (up_to_ms, bar.count_since_last_iteration())
            })
            .collect();
        let first = bars.iter().position(|(_, count)| *count > 0);
        let last = bars.iter().rposition(|(_, count)| *count > 0);
        match (first, last) {
            (Some(first), Some(last)) => bars[first..=last].to_vec(),
            _ => Vec::new(),
        }
    }

    /// The intervals in their order, also those in which nothing arrived.
    pub fn points(&self) -> Vec<Point> {
        let seconds = self.interval_ns as f64 / 1e9;
        let quantile = |slot: &Histogram<u64>, quantile| {
            let value = if slot.is_empty() {
                0
            } else {
                slot.value_at_quantile(quantile)
            };
            value as f64 / 1e3
        };
        let point = |(index, slot): (usize, &Histogram<u64>)| Point {
            seconds: seconds * (index + 1) as f64,
            per_second: slot.len() as f64 / seconds,
            p50_us: quantile(slot, 0.5),
            p95_us: quantile(slot, 0.95),
            p99_us: quantile(slot, 0.99),
            max_us: quantile(slot, 1.0),
        };
        self.slots.iter().enumerate().map(point).collect()
    }
}

impl Serialize for Timeline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.points().serialize(serializer)
    }
}

/// A histogram of nanoseconds from 1 ns to a minute, exact to two digits.
pub fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("the bounds are ordered");
    histogram.auto(true);
    histogram
}

fn merge(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.add(from)
        .expect("all histograms have the same bounds and grow");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_saw_is_added_up_by_interval() {
        let start = Start::default();
        start.begin(1.0);
        let at = |timeline: &Timeline, ms: u64| timeline.start_ns + ms * 1_000_000;
        let (mut one, mut other) = (start.timeline(), start.timeline());
        for (ms, latency_ns) in [(0, 1_000), (99, 3_000), (100, 5_000)] {
            let now = at(&one, ms);
            one.slot(now).saturating_record(latency_ns);
        }
        let now = at(&other, 350);
        other.slot(now).saturating_record(7_000);
        one.add(&other);
        let points = one.points();
        let rates: Vec<f64> = points.iter().map(|point| point.per_second).collect();
        assert_eq!(rates, [20.0, 10.0, 0.0, 10.0]);
        assert!((points[0].max_us - 3.0).abs() < 0.1, "{points:?}");
        assert_eq!(points[2].p99_us, 0.0);
        assert!((points[3].seconds - 0.4).abs() < 1e-9);
        assert_eq!(one.total().len(), 4);
        let bars = one.bars();
        assert_eq!(bars.iter().map(|(_, count)| count).sum::<u64>(), 4);
        assert!(bars[0].1 > 0 && bars[bars.len() - 1].1 > 0, "{bars:?}");
        assert_eq!(start.timeline().bars(), []);
    }

    #[test]
    fn a_long_run_has_longer_intervals_and_no_more_of_them() {
        let start = Start::default();
        start.begin(6_000.0);
        let mut timeline = start.timeline();
        assert_eq!(timeline.interval_ns, 10_000_000_000);
        let late = timeline.start_ns + 7_000 * 1_000_000_000;
        timeline.slot(late).saturating_record(1);
        assert_eq!(timeline.points().len(), SLOTS_MAX);
        // What comes behind the end is in the last interval, not in one that looks empty.
        start.begin(0.5);
        let mut timeline = start.timeline();
        let late = timeline.start_ns + 510_000_000;
        timeline.slot(late).saturating_record(1);
        assert_eq!(timeline.points().len(), 5);
    }
}
