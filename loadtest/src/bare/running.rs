//! A bare server on a pinned thread of this process, for tests and benchmarks.
//!
//! In: a loop and a core. Out: an address, and the loop's outcome when it is stopped.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use socket2::{Domain, Socket, Type};

use crate::probe;

/// What a server does: accept on the listener and relay, until the descriptor becomes readable.
pub type Serve = fn(&TcpListener, &OwnedFd) -> io::Result<()>;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A server that is running.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stop: UnixStream,
    thread: JoinHandle<io::Result<()>>,
}

/// A listener on `address` with a backlog that takes a storm of connections.
///
/// # Errors
///
/// When the address is taken.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Running {
    /// Starts `serve` on `cpu`; its thread is called `name`.
    ///
    /// # Errors
    ///
    /// When no port or thread is to be had.
    pub fn start(name: &str, cpu: usize, serve: Serve) -> io::Result<Self> {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let (stop, stopped) = UnixStream::pair()?;
        let address = listener.local_addr()?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                probe::pin_to(cpu)?;
                serve(&listener, &OwnedFd::from(stopped))
            })?;
        Ok(Self {
            address,
            stop,
            thread,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it and says how it ended.
    ///
    /// # Errors
    ///
    /// What the loop failed with.
    pub fn stop(self) -> io::Result<()> {
        drop(self.stop);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the server's thread panicked"))?
    }
}
