//! From a database's write-ahead log to messages of the logical replication protocol.
//!
//! What comes in: a tenant's settings, and the name of a publication and of a slot. What goes out: [`Event`]s in commit order. What
//! always holds: bytes from outside never panic (`random_bytes_never_panic`); a slot is temporary, so nothing is retained for a
//! server that is gone; what waits for the database has a bound. Deliberately absent: what the rows mean, and what to do when a
//! stream breaks; whoever reads it knows that.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

pub mod pgoutput;
pub mod slot;
pub mod backoff;
pub mod watch;
pub mod stream;
pub mod poll;
pub mod session;

pub use session::{Changes, Session, Way};
pub use slot::Fault;
pub use stream::Stream;

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As PostgreSQL prints it: two halves in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A text that is no position.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NotAnLsn;

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let (high, low) = text.split_once('/').ok_or(NotAnLsn)?;
        let half = |text| u32::from_str_radix(text, 16).map_err(|_| NotAnLsn);
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// What a stream says next.
#[derive(Clone, Debug)]
pub enum Event {
    /// A transaction begins.
    Begin(pgoutput::Begin),
    /// It is complete.
    Commit(pgoutput::Commit),
    /// A message within it, for [`pgoutput::decode`].
    Message(bytes::Bytes),
    /// Everything that was committed before this position has been said.
    Passed(Lsn),
}

/// Microseconds between 1970 and 2000: PostgreSQL counts from the later one.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_printed_as_they_are_parsed() {
        let check = |text: &str, expected| assert_eq!(text.parse(), Ok(Lsn(expected)), "{text}");
        check("0/0", 0);
        check("1/2", 0x1_0000_0002);
        check("16/B374D848", 0x16_b374_d848);
        check("FFFFFFFF/FFFFFFFF", u64::MAX);
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
        for text in ["", "1", "1/", "/1", "1/100000000", "x/1"] {
            assert_eq!(text.parse::<Lsn>(), Err(NotAnLsn), "{text}");
        }
    }
}
