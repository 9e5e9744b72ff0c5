//! What the product decides about the runtime.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Which cores the threads run on.
#[derive(Clone, Debug, Default)]
pub enum Placement {
    /// The process's own cpuset: the last core for control, the others for the shards in turn; one core is shared.
    #[default]
    Auto,
    /// These cores, by their numbers, used in the same way.
    Cpus(Vec<usize>),
    /// Wherever the scheduler likes.
    Unpinned,
}

/// Where the shards accept connections.
#[derive(Debug)]
pub enum Listen {
    /// Every shard binds every address, with `SO_REUSEPORT`. Port 0 picks one port for all shards.
    Addrs(Vec<SocketAddr>),
    /// All shards accept from these sockets, which somebody else bound and which listen already.
    Bound(Vec<TcpListener>),
}

/// Which kernel interface to use.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub enum DriverChoice {
    /// `io_uring`, or epoll where that is refused.
    #[default]
    Auto,
    /// `io_uring` or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// Number of shards, at least 1; may be more than there are cores.
    pub shards: usize,
    /// Cores.
    pub cpus: Placement,
    /// Addresses.
    pub listen: Listen,
    /// Kernel interface.
    pub driver: DriverChoice,
    /// Whether a ring may keep sockets in a table of its own, where the limit of open files holds per shard; kernels
    /// before 6.8 cannot. Off is for finding out whether that table is at fault.
    pub direct_descriptors: bool,
    /// Open files to ask the kernel for; none: as many as it allows.
    pub open_files_max: Option<u64>,
    /// Sockets per shard at most, the ones kept in reserve to refuse politely included. The limit of open files bounds
    /// it as well.
    pub connections_max: usize,
    /// How long a socket with queued bytes may make no progress before [`Handler::on_stalled`](crate::Handler); full
    /// seconds, rounded up.
    pub stall_after: Duration,
    /// How long a closing socket may make no progress before it is cut off; full seconds, rounded up. Ten times as
    /// long, it is cut off in any case.
    pub linger: Duration,
    /// `SO_SNDBUF` of every socket (the kernel doubles it); 0 leaves the kernel's own.
    pub send_buffer_bytes: u32,
    /// Letters a mailbox holds before its sender has to keep them.
    pub mailbox_letters: usize,
    /// Letters a shard keeps for full mailboxes of other shards before it takes no more input from its sockets. Those
    /// for control do not count: see [`Io::waiting_for_control`](crate::Io::waiting_for_control).
    pub spill_letters: usize,
    /// Connections the kernel holds for a listener that has not accepted them yet.
    pub backlog: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 1,
            cpus: Placement::Auto,
            listen: Listen::Addrs(Vec::new()),
            driver: DriverChoice::Auto,
            direct_descriptors: true,
            open_files_max: None,
            connections_max: 16_384,
            stall_after: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            send_buffer_bytes: 64 * 1024,
            mailbox_letters: 1024,
            spill_letters: 4096,
            backlog: 4096,
        }
    }
}
