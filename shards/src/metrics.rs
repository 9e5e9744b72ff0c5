//! What a shard counts about itself: plain numbers of its own thread, read by the product when it is asked.

/// Counters since the start of the shard. They only grow, except [`ShardMetrics::turn_ns_max`].
#[derive(Clone, Debug, Default)]
pub struct ShardMetrics {
    /// Turns of the loop.
    pub turns: u64,
    /// Completions (or, on epoll, their like) that were taken.
    pub completions: u64,
    /// Sends that were started; one carries everything that was queued for its socket.
    pub sends: u64,
    /// Buffers that were copied together with others into one send.
    pub coalesced: u64,
    /// Sockets that were half-closed, to wait for their peer's FIN.
    pub half_closes: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes the kernel took.
    pub bytes_out: u64,
    /// Sockets accepted.
    pub accepts: u64,
    /// Accepts that failed, among them those without a free slot or descriptor.
    pub accept_errors: u64,
    /// Times that a sleeping thread was woken by this shard.
    pub doorbells_rung: u64,
    /// Times that this shard was woken by another thread.
    pub doorbells_heard: u64,
    /// Receives that ended for want of a buffer (ENOBUFS) and were parked.
    pub receives_parked: u64,
    /// Times that the completion queue overflowed.
    pub completion_overflows: u64,
    /// Letters handed to a mailbox, or kept for one that was full.
    pub mail_sent: u64,
    /// Letters taken out of mailboxes.
    pub mail_received: u64,
    /// Letters that found their mailbox full and had to wait here.
    pub mail_spilled: u64,
    /// Turns in which input was held back because too much mail was waiting.
    pub turns_held: u64,
    /// The longest turn, in nanoseconds, the wait for events not counted.
    pub turn_ns_max: u64,
}
