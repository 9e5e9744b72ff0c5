//! Bare publish/subscribe servers: what the machine can do when a server does nothing but relay.
//!
//! In: sockets. Out: every data frame of a member, unmasked, to all members of the same path, the
//! sender included. No Phoenix, no JSON, no authorization, no quotas: the figures of a real server
//! are divided by theirs.
//!
//! [`Hub`] is the part that all of them have in common, bytes in and bytes out; the loops around it
//! differ in how they ask the kernel: [`uring`] here, epoll, monoio and glommio in
//! `benches/runtimes.rs`. Always holds: what came for a topic in one turn goes out as one buffer,
//! which its members share.

mod hub;
mod running;
pub mod uring;

pub use hub::{Hub, Outbox, Over, Session};
pub use running::{Running, Serve, listen};
