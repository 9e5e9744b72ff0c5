//! Listening sockets: how they are bound, and when accepting is asked for again.
//!
//! Every shard has its own listeners on the same addresses (`SO_REUSEPORT`): the kernel spreads connections, and no
//! thread hands sockets to another. All are bound before any thread starts, so that a taken port is an error of the
//! start. Options set on a listener are inherited by what it accepts, which saves system calls per connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::driver::Driver;
use crate::ids::Tick;
use crate::options::{Listen, Options};

/// Binds the listeners of every shard; the outer list is by shard. All shards share the port that port 0 gave the first.
///
/// # Errors
///
/// What the kernel says, with the address.
pub(crate) fn bind(options: &Options) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut shards: Vec<Vec<TcpListener>> = (0..options.shards).map(|_| Vec::new()).collect();
    match &options.listen {
        Listen::Addrs(addrs) => {
            for addr in addrs {
                let mut addr = *addr;
                is_free(addr).map_err(|error| cannot(addr, &error))?;
                for listeners in &mut shards {
                    let listener = bind_one(addr, options).map_err(|error| cannot(addr, &error))?;
                    addr = listener.local_addr()?;
                    listeners.push(listener);
                }
            }
        }
        Listen::Bound(bound) => {
            for listener in bound {
                inherit(SockRef::from(listener), options)?;
                for listeners in &mut shards {
                    listeners.push(listener.try_clone()?);
                }
            }
        }
    }
    Ok(shards)
}

fn cannot(addr: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
}

/// With `SO_REUSEPORT` a second server of the same user would share the port, and get half of the connections, without
/// anybody noticing: a socket without that option is refused where anything listens.
fn is_free(addr: SocketAddr) -> io::Result<()> {
    if addr.port() == 0 {
        return Ok(());
    }
    socket_for(addr)?.bind(&addr.into())
}

fn socket_for(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // `[::]` serves IPv4 as well, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn bind_one(addr: SocketAddr, options: &Options) -> io::Result<TcpListener> {
    let socket = socket_for(addr)?;
    socket.set_reuse_port(true)?;
    inherit(SockRef::from(&socket), options)?;
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Sets what accepted sockets inherit.
fn inherit(socket: SockRef<'_>, options: &Options) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if options.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(options.send_buffer_bytes as usize)?;
    }
    Ok(())
}

/// Whether the listeners of a shard are being accepted from.
pub(crate) struct Accepting {
    listeners: Vec<State>,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum State {
    /// The kernel accepts.
    Armed,
    /// To be asked for in this turn.
    Idle,
    /// There is no descriptor left: to be asked for when one was closed, or at this moment.
    Starved(Tick),
    /// Something else went wrong: to be asked for at this moment.
    Failed(Tick),
}

/// How long a listener without descriptors waits for a close before it tries all the same: the limit may be the
/// system's, and then the close may be another process's.
const STARVED_RETRY: Duration = Duration::from_secs(1);

/// How long a listener waits after an error that is not about descriptors.
const FAILED_RETRY: Duration = Duration::from_millis(100);

impl Accepting {
    /// `count` listeners that nobody accepts from yet.
    pub(crate) fn new(count: u16) -> Self {
        Self {
            listeners: vec![State::Idle; usize::from(count)],
        }
    }

    /// Accepting ended.
    pub(crate) fn ended(&mut self, listener: u16, errno: i32, now: Tick) {
        self.listeners[usize::from(listener)] = match errno {
            // accept(2): errors of a connection that died in the queue concern that connection alone.
            0 | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN => State::Idle,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                State::Starved(now.after(STARVED_RETRY))
            }
            _ => State::Failed(now.after(FAILED_RETRY)),
        };
    }

    /// A socket was closed: there is a descriptor again.
    pub(crate) fn socket_closed(&mut self) {
        for state in &mut self.listeners {
            if let State::Starved(_) = state {
                *state = State::Idle;
            }
        }
    }

    /// Asks for what is to be asked for now.
    pub(crate) fn arm(&mut self, now: Tick, driver: &mut impl Driver) {
        for (listener, state) in self.listeners.iter_mut().enumerate() {
            match *state {
                State::Armed => continue,
                State::Starved(at) | State::Failed(at) if at > now => continue,
                State::Idle | State::Starved(_) | State::Failed(_) => {}
            }
            *state = State::Armed;
            driver.accept(listener as u16);
        }
    }

    /// When to try again at the latest.
    pub(crate) fn retry_at(&self) -> Option<Tick> {
        let at = |state: &State| match state {
            State::Armed => None,
            State::Idle => Some(Tick::default()),
            State::Starved(at) | State::Failed(at) => Some(*at),
        };
        self.listeners.iter().filter_map(at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_share_the_port_that_was_chosen() {
        let options = Options {
            shards: 3,
            listen: Listen::Addrs(vec!["127.0.0.1:0".parse().unwrap()]),
            ..Options::default()
        };
        let ports: Vec<u16> = bind(&options)
            .unwrap()
            .iter()
            .map(|listeners| listeners[0].local_addr().unwrap().port())
            .collect();
        assert_ne!(ports[0], 0);
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let options = Options {
            listen: Listen::Addrs(vec![addr]),
            ..Options::default()
        };
        let error = bind(&options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }

    #[test]
    fn a_second_server_does_not_share_the_port() {
        let of = |addr: &str| Options {
            shards: 2,
            listen: Listen::Addrs(vec![addr.parse().unwrap()]),
            ..Options::default()
        };
        let first = bind(&of("127.0.0.1:0")).unwrap();
        let port = first[0][0].local_addr().unwrap().port();
        let error = bind(&of(&format!("127.0.0.1:{port}"))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(&of(&format!("127.0.0.1:{port}"))).unwrap();
    }

    #[test]
    fn a_starved_listener_waits_for_a_close_or_for_its_retry() {
        let mut accepting = Accepting::new(1);
        accepting.ended(0, libc::ENFILE, Tick(0));
        assert_eq!(accepting.retry_at(), Some(Tick(1_000_000_000)));
        accepting.socket_closed();
        assert_eq!(accepting.retry_at(), Some(Tick(0)));
        accepting.ended(0, libc::EPERM, Tick(0));
        accepting.socket_closed();
        assert_eq!(
            accepting.retry_at(),
            Some(Tick(100_000_000)),
            "a close does not cure it"
        );
    }
}
