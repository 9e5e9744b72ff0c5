//! The bare `io_uring` server as a process of its own, for paired runs beside the real server.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use clap::Parser;
use loadtest::{bare, probe};

/// A WebSocket publish/subscribe server that does nothing but relay: the path is the topic.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:4100")]
    listen: SocketAddr,
    /// The core to run on.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    probe::raise_open_files()?;
    probe::pin_to(arguments.cpu)?;
    let listener = bare::listen(arguments.listen)?;
    writeln!(
        io::stdout(),
        "listening on {}, pid {}",
        listener.local_addr()?,
        std::process::id()
    )?;
    // Nobody closes the other end: it serves until it is killed.
    let (_open, stop) = UnixStream::pair()?;
    bare::uring::serve(&listener, &OwnedFd::from(stop))
}
