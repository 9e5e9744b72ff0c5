//! What goes out of a socket: bounded, and a reader that cannot keep up is closed alone.
//!
//! The runtime keeps the queue itself and writes it once a turn; this is the policy on top. What always holds: a queue over
//! `WEBSOCKET_MAX_HEAP_SIZE` ends its own connection and no other; one largest legal message always fits. What counts is the memory
//! of the queue, not its bytes alone: pongs of two bytes would take forty times as much.

use super::{Close, ConnectionId, Io, LocalBytes};
use crate::limits;
use crate::websocket;

/// Queues one frame, or several in one buffer, for this socket.
///
/// Returns false when its queue has passed `queued_bytes_max` and the caller has to close it with 1013: one slow reader must not hold
/// memory for the others. A socket that is gone takes everything.
#[must_use]
pub fn queue(
    io: &mut Io<'_>,
    id: ConnectionId,
    frame: LocalBytes,
    queued_bytes_max: usize,
) -> bool {
    let fits = queued_bytes_max.max(limits::MESSAGE_BYTES_MAX * 2);
    io.send(id, frame) <= fits
}

/// Queues bytes that no other socket gets.
#[must_use]
pub fn queue_bytes(
    io: &mut Io<'_>,
    id: ConnectionId,
    bytes: Vec<u8>,
    queued_bytes_max: usize,
) -> bool {
    queue(io, id, LocalBytes::from(bytes), queued_bytes_max)
}

/// A close frame with this code and no reason (spec 4.4: the reason is empty in all of them).
#[must_use]
pub fn close_frame(code: u16) -> LocalBytes {
    let mut out = Vec::with_capacity(4);
    websocket::encode_close(&mut out, code, "");
    LocalBytes::from(out)
}

/// Sends a close frame behind what is queued, and ends the connection.
pub fn close(io: &mut Io<'_>, id: ConnectionId, code: u16) {
    io.send(id, close_frame(code));
    io.close(id, Close::Flush);
}

/// Answers the close frame of a client, behind what is queued: it sends nothing more (RFC 6455 §5.5.1).
pub fn close_answered(io: &mut Io<'_>, id: ConnectionId, code: u16) {
    io.send(id, close_frame(code));
    io.close(id, Close::Final);
}

/// Ends the connection of a reader that cannot keep up: what it did not read is dropped.
pub fn close_slow(io: &mut Io<'_>, id: ConnectionId) {
    io.close(id, Close::Replace(close_frame(1013)));
}
