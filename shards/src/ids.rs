//! Who is who: threads, sockets and moments, each a type of its own.
//!
//! Nothing here is an integer to the outside. A [`ConnectionId`] names one socket for ever: its generation changes
//! whenever its slot is given to another socket, so a late word about the old one finds nothing.

use std::time::Duration;

/// One shard: an index from 0.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct ShardId(pub u16);

/// One socket of one shard. Another shard may hold it and mail it about, but only its own shard can use it.
///
/// The order of ids means nothing; it is there for lists that are searched.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct ConnectionId {
    index: u32,
    generation: u32,
}

const _: () = assert!(
    size_of::<ConnectionId>() == 8,
    "an id travels in mail and in tables"
);

impl ConnectionId {
    /// The id of slot `index` in its life `generation`.
    #[must_use]
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The slot, from 0; dense, so that it can index a table.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Which of the slot's sockets this is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// The other end of a mailbox.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Peer {
    /// A shard, possibly the own one.
    Shard(ShardId),
    /// The control thread.
    Control,
}

/// Nanoseconds of a monotonic clock since the runtime started.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// The moment `wait` later; saturates after 584 years.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        let nanos = wait.as_nanos();
        let nanos = if nanos > u64::MAX as u128 {
            u64::MAX
        } else {
            nanos as u64
        };
        Self(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero when it is still to come.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole milliseconds, wrapping after 49 days: for differences only.
    pub(crate) const fn wrapping_ms(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }

    /// Whole seconds since the start.
    pub(crate) const fn second(self) -> u32 {
        (self.0 / 1_000_000_000) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_saturate_in_both_directions() {
        assert_eq!(Tick(5).after(Duration::from_nanos(7)), Tick(12));
        assert_eq!(Tick(u64::MAX - 1).after(Duration::MAX), Tick(u64::MAX));
        assert_eq!(Tick(12).since(Tick(5)), Duration::from_nanos(7));
        assert_eq!(Tick(5).since(Tick(12)), Duration::ZERO);
    }
}
