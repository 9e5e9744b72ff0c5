#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod atomic;
mod ids;
mod metrics;
mod options;
mod doorbell;
mod mesh;
mod shared_bytes;
mod table;
mod wheel;
mod slab;
mod driver;
mod send_queue;
mod handler;
mod io;
mod listener;
mod stream;
mod shard;
mod topology;
mod control_port;
mod runtime;
pub mod sim;

pub use control_port::ControlPort;
pub use driver::DriverKind;
pub use handler::{Close, Closed, Handler};
pub use ids::{ConnectionId, Peer, ShardId, Tick};
pub use io::Io;
pub use metrics::{Count, Histogram, ShardMetrics, TURN_NS_BOUNDS, Tally, Traffic};
pub use options::{DriverChoice, Listen, Options, Placement};
pub use runtime::{Runtime, Threads, start};
pub use shared_bytes::{LocalBytes, SharedBytes};
pub use table::Table;
