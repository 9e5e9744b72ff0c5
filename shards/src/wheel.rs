//! The timer wheel, the heap of precise timers, and the clock that drives both.
//!
//! The wheel has 64 slots of one second and holds slab indices, 4 bytes each. It is lazy: an entry only says "look at
//! this slot then"; whoever pops it compares with what the slot really wants and puts it back if it is early. So a
//! message never moves an entry. An entry whose slot remembers another bucket is stale and is dropped by the popper.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ids::Tick;

/// Slots of the wheel, one second each.
pub(crate) const SLOTS: u32 = 64;

/// The bucket of a slot that is in no bucket.
pub(crate) const NOWHERE: u8 = u8::MAX;

/// Seconds to slab indices.
pub(crate) struct Wheel {
    buckets: [Vec<u32>; SLOTS as usize],
    /// One bit per bucket that holds something.
    occupied: u64,
    /// The last second that was popped.
    second: u32,
}

impl Wheel {
    /// An empty wheel that stands at `second`.
    pub(crate) fn new(second: u32) -> Self {
        Self {
            buckets: [const { Vec::new() }; SLOTS as usize],
            occupied: 0,
            second,
        }
    }

    /// Puts `index` where it is popped at `second`, or as near before it as the wheel reaches, and never before the
    /// next second. `bucket` is where the slot stands already (or [`NOWHERE`]); returns the one to remember.
    pub(crate) fn insert(&mut self, index: u32, second: u32, bucket: u8) -> u8 {
        let earliest = self.second.saturating_add(1);
        let target = second.clamp(earliest, earliest.saturating_add(SLOTS - 2)) % SLOTS;
        if target != u32::from(bucket) {
            self.buckets[target as usize].push(index);
            self.occupied |= 1 << target;
        }
        target as u8
    }

    /// Moves to `second` and appends every entry on the way, with its bucket, to `due`. Returns whether the clock was
    /// set back: then everything is due, because what the slots want was said in the old time.
    pub(crate) fn advance(&mut self, second: u32, due: &mut Vec<(u32, u8)>) -> bool {
        let back = second < self.second;
        if second == self.second {
            return false;
        }
        let steps = if back {
            SLOTS
        } else {
            (second - self.second).min(SLOTS)
        };
        for step in 1..=steps {
            let bucket = self.second.wrapping_add(step) % SLOTS;
            if self.occupied & (1 << bucket) != 0 {
                self.occupied &= !(1 << bucket);
                let entries = &mut self.buckets[bucket as usize];
                due.extend(entries.iter().map(|index| (*index, bucket as u8)));
                if entries.capacity() > 4096 {
                    *entries = Vec::new();
                } else {
                    entries.clear();
                }
            }
        }
        self.second = second;
        back
    }

    /// The next second at which something is popped.
    pub(crate) const fn next(&self) -> Option<u32> {
        if self.occupied == 0 {
            return None;
        }
        let first = self.second.wrapping_add(1);
        let ahead = self.occupied.rotate_right(first % SLOTS).trailing_zeros();
        Some(first.saturating_add(ahead))
    }
}

/// Timers that are due to the millisecond: few, never cancelled.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Tick, u64, u64)>>,
    set_count: u64,
}

impl Timers {
    /// Sets a timer; equal moments fire in the order they were set.
    pub(crate) fn set(&mut self, at: Tick, key: u64) {
        self.heap.push(Reverse((at, self.set_count, key)));
        self.set_count += 1;
    }

    /// A mark that separates the timers set so far from those set later.
    pub(crate) const fn mark(&self) -> u64 {
        self.set_count
    }

    /// The key of the next timer that is due at `now` and was set before `mark`: a handler that sets a timer for
    /// "now" gets it in the next turn and cannot keep this one going for ever.
    pub(crate) fn pop(&mut self, now: Tick, mark: u64) -> Option<u64> {
        let Reverse((at, set, _)) = *self.heap.peek()?;
        if at > now || set >= mark {
            return None;
        }
        self.heap.pop().map(|Reverse((_, _, key))| key)
    }

    /// The moment of the next timer.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }
}

/// The two clocks of the real world.
#[derive(Copy, Clone)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose tick 0 is now.
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Monotonic time since the start.
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub(crate) fn now(&self) -> Tick {
        Tick::default().after(Instant::now() - self.start)
    }

    /// Milliseconds since 1970.
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub(crate) fn unix_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn popped(wheel: &mut Wheel, second: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(second, &mut due);
        due.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn an_entry_is_popped_in_its_second() {
        let mut wheel = Wheel::new(1_000);
        assert_eq!(wheel.next(), None);
        wheel.insert(7, 1_003, NOWHERE);
        wheel.insert(8, 1_005, NOWHERE);
        assert_eq!(wheel.next(), Some(1_003));
        assert_eq!(popped(&mut wheel, 1_002), []);
        assert_eq!(popped(&mut wheel, 1_003), [7]);
        assert_eq!(wheel.next(), Some(1_005));
        assert_eq!(popped(&mut wheel, 2_000), [8]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn an_entry_beyond_the_reach_is_popped_early_to_be_put_back() {
        let mut wheel = Wheel::new(10);
        wheel.insert(1, 500, NOWHERE);
        assert_eq!(wheel.next(), Some(73));
        assert_eq!(popped(&mut wheel, 73), [1]);
    }

    #[test]
    fn an_entry_for_the_past_is_popped_in_the_next_second() {
        let mut wheel = Wheel::new(10);
        wheel.insert(1, 3, NOWHERE);
        assert_eq!(wheel.next(), Some(11));
        assert_eq!(popped(&mut wheel, 11), [1]);
    }

    #[test]
    fn a_clock_set_back_makes_everything_due() {
        let mut wheel = Wheel::new(1_000);
        wheel.insert(1, 1_001, NOWHERE);
        wheel.insert(2, 1_060, NOWHERE);
        assert_eq!(popped(&mut wheel, 400), [1, 2]);
        wheel.insert(1, 402, NOWHERE);
        assert_eq!(wheel.next(), Some(402));
    }

    #[test]
    fn timers_fire_in_order_and_a_new_one_waits_for_the_next_turn() {
        let mut timers = Timers::default();
        timers.set(Tick(30), 1);
        timers.set(Tick(10), 2);
        timers.set(Tick(10), 3);
        assert_eq!(timers.next(), Some(Tick(10)));
        let mark = timers.mark();
        assert_eq!(timers.pop(Tick(20), mark), Some(2));
        timers.set(Tick(20), 4);
        assert_eq!(timers.pop(Tick(20), mark), Some(3));
        assert_eq!(timers.pop(Tick(20), mark), None);
        assert_eq!(timers.pop(Tick(20), timers.mark()), Some(4));
        assert_eq!(timers.pop(Tick(40), timers.mark()), Some(1));
    }
}
