//! What the product is to a shard: the calls it gets, in the order it may rely on.

use std::os::fd::OwnedFd;

use crate::ids::{ConnectionId, Peer};
use crate::io::Io;
use crate::shared_bytes::LocalBytes;

/// The product on one shard. Every call happens on the shard's own thread, one at a time, and must not wait.
///
/// For one connection: `on_accept` (unless it was adopted), any number of `on_bytes`, `on_visit` and `on_stalled`, and
/// then exactly one end: `on_close`, or `on_detached` after [`Io::detach`], or nothing after [`Io::close`].
pub trait Handler: Sized {
    /// What threads say to each other.
    type Mail: Send + 'static;

    /// The shard runs; its mailboxes are open, its listener is about to be.
    fn on_start(&mut self, _io: &mut Io<'_, Self::Mail>) {}

    /// A new socket of this shard's listener.
    fn on_accept(&mut self, io: &mut Io<'_, Self::Mail>, id: ConnectionId);

    /// Bytes from the peer, in order. They are the receive buffer itself: they may be changed in place and are gone
    /// after the call.
    fn on_bytes(&mut self, io: &mut Io<'_, Self::Mail>, id: ConnectionId, bytes: &mut [u8]);

    /// The peer ended the connection or it failed. `id` is dead already: nothing can be sent to it.
    fn on_close(&mut self, io: &mut Io<'_, Self::Mail>, id: ConnectionId, why: Closed);

    /// The answer to [`Io::detach`]: the socket as an ordinary, non-blocking descriptor, everything queued for it
    /// before having been sent. `id` is dead.
    fn on_detached(&mut self, io: &mut Io<'_, Self::Mail>, id: ConnectionId, socket: OwnedFd);

    /// A letter; letters of one peer arrive in the order they were sent.
    fn on_mail(&mut self, io: &mut Io<'_, Self::Mail>, from: Peer, mail: Self::Mail);

    /// A timer set with [`Io::set_timer`] is due.
    fn on_timer(&mut self, io: &mut Io<'_, Self::Mail>, key: u64);

    /// The second asked for with [`Io::visit_at`] has come, or the wall clock was set back.
    fn on_visit(&mut self, io: &mut Io<'_, Self::Mail>, id: ConnectionId);

    /// Bytes are queued for this socket and for [`Options::stall_after`](crate::Options::stall_after) none could be
    /// sent. Called again after as long again.
    fn on_stalled(&mut self, io: &mut Io<'_, Self::Mail>, id: ConnectionId);

    /// Everything that was there in this turn has been handed over; what is queued is sent after this call.
    fn on_turn_end(&mut self, io: &mut Io<'_, Self::Mail>);
}

/// Why a connection ended by itself.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Closed {
    /// The peer sent everything it wanted to send (FIN).
    Peer,
    /// The connection failed; the errno says how.
    Reset(i32),
}

/// How the product ends a connection.
#[derive(Clone, Debug)]
pub enum Close {
    /// Send what is queued, half-close, and wait for the peer's FIN while discarding its input; without progress for
    /// [`Options::linger`](crate::Options::linger) the socket is closed at once. Closing while input is unread would
    /// make the kernel send a reset that can overtake the last bytes.
    Flush,
    /// Drop what is queued and whose sending has not begun, queue these last bytes, then as [`Close::Flush`].
    Replace(LocalBytes),
    /// Send what is queued, then close at once: for a peer that has said that it sends no more. If it does send more, a
    /// reset can overtake the last bytes. Cheaper than [`Close::Flush`], whose half-close a ring has a worker thread do
    /// and whose slot lives until the peer's FIN. It is [`Close::Flush`] when input is known to wait unread.
    Final,
    /// At once; what is queued is lost.
    Abort,
}
