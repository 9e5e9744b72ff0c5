//! Bytes to events and back: the WebSocket protocol (RFC 6455), server side, without I/O.
//!
//! In come the bytes of one connection, in whatever pieces the kernel cut them; out go whole messages and control frames
//! ([`Decoder`]). The other way round, [`encode_header`], [`encode_frame`] and [`encode_close`] append to a buffer.
//! [`handshake`] computes the one header of the upgrade that is not a constant.
//!
//! # Invariants
//!
//! - However the bytes are split, the events are the same. (`any_split_gives_the_same_events`)
//! - Nothing that a peer sends can panic here, or make a connection hold more memory than about twice what it sent.
//!   (`random_bytes_never_panic`, `announcing_much_costs_little`)
//! - A frame that arrives whole is unmasked where it lies and is never copied. An idle decoder owns no memory.
//! - After an error or a close frame, a decoder yields no further event.
//!
//! Absent on purpose: extensions (no per-message deflate, so reserved bits are errors), sub-protocols, the client side,
//! timers, and the decision what to answer: a ping is an event like any other.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

pub mod handshake;
mod mask;
mod frame;
mod close;
mod assembler;
#[cfg(test)]
mod tests;

pub use assembler::{Decoder, Event, Limits};
pub use close::encode_close;
pub use frame::{Opcode, ProtocolError, encode_frame, encode_header};
pub use mask::unmask;
