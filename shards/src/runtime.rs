//! Starting, joining and stopping the shards.
//!
//! Everything that can fail fails in [`start`]: addresses are bound and rings are made before it returns. The threads
//! wait for each other's word that they are ready, because from then on they ring each other.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::control_port::ControlPort;
use crate::driver::epoll::{self, Epoll};
use crate::driver::uring::{self, Uring};
use crate::driver::{Driver, DriverKind};
use crate::handler::Handler;
use crate::ids::ShardId;
use crate::listener;
use crate::mesh::{Bells, Incoming, Node, Outgoing, mesh};
use crate::options::{DriverChoice, Options};
use crate::shard::Shard;
use crate::topology;
use crate::wheel::Clock;

/// Running shards.
pub struct Runtime<M> {
    /// The control thread's mailboxes.
    pub control: ControlPort<M>,
    threads: Threads,
    local_addrs: Vec<SocketAddr>,
    drivers: Vec<DriverKind>,
    tables: Vec<Option<usize>>,
    fallback: Option<String>,
}

/// The shards' threads.
#[must_use = "shards that are not joined end with the process"]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Waits until every shard has left its loop.
    ///
    /// # Errors
    ///
    /// When a shard panicked.
    pub fn join(self) -> io::Result<()> {
        let results: Vec<_> = self.handles.into_iter().map(JoinHandle::join).collect();
        if results.iter().any(Result::is_err) {
            return Err(io::Error::other("a shard panicked"));
        }
        Ok(())
    }
}

impl<M> Runtime<M> {
    /// The first address listened on, with the port that was chosen.
    ///
    /// # Panics
    ///
    /// When nothing is listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        *self
            .local_addrs
            .first()
            .expect("the caller has asked to listen")
    }

    /// Every address listened on.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// The kernel interface of each shard.
    #[must_use]
    pub fn drivers(&self) -> &[DriverKind] {
        &self.drivers
    }

    /// Size of each shard's own table of sockets; nothing where its sockets are open files of the process like any other.
    #[must_use]
    pub fn socket_tables(&self) -> &[Option<usize>] {
        &self.tables
    }

    /// Why epoll was chosen although `io_uring` was wanted: a sentence that names what forbids it.
    #[must_use]
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Waits until every shard has left its loop ([`Io::stop`](crate::Io::stop)).
    ///
    /// # Errors
    ///
    /// When a shard panicked.
    pub fn join(self) -> io::Result<()> {
        self.threads.join()
    }

    /// The control thread's mailboxes, to be moved to that thread, and the shards' threads, to be joined.
    pub fn into_parts(self) -> (ControlPort<M>, Threads) {
        (self.control, self.threads)
    }
}

/// What a thread says when it is ready or has failed.
struct Report {
    shard: usize,
    outcome: io::Result<Ready>,
}

/// What a thread has when it is ready.
struct Ready {
    driver: DriverKind,
    table: Option<usize>,
    fallback: Option<String>,
}

/// Binds, starts a thread per shard and waits until all of them are ready. `make` is called on each thread.
///
/// # Errors
///
/// When an address cannot be bound, a core does not exist, or the kernel interface asked for is refused. Nothing is left
/// running then.
pub fn start<H: Handler + 'static>(
    options: Options,
    make: impl Fn(ShardId) -> H + Send + Sync + 'static,
) -> io::Result<Runtime<H::Mail>> {
    if options.shards == 0 || options.shards >= usize::from(u16::MAX) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the number of shards must be 1 to 65534",
        ));
    }
    let plan = topology::plan(options.shards, &options.cpus)?;
    topology::set_open_files(options.open_files_max);
    let listeners = listener::bind(&options)?;
    let local_addrs = listeners[0]
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()?;
    let eventfds = (0..=options.shards)
        .map(|_| epoll::eventfd().map(Some))
        .collect::<io::Result<Vec<Option<OwnedFd>>>>()?;
    let bells = Bells::new(eventfds);
    let mut mailboxes = mesh(&bells, options.mailbox_letters);
    let control = mailboxes
        .pop()
        .expect("the mesh has one node more than there are shards");
    let control = ControlPort::new(control, plan.control)?;

    let shared = Arc::new((options, make));
    let clock = Clock::start();
    let (report, reports) = channel();
    let mut handles = Vec::new();
    let mut go = Vec::new();
    for (shard, (mailboxes, listeners)) in mailboxes.into_iter().zip(listeners).enumerate() {
        let (word, wait_for_word) = channel();
        go.push(word);
        let boot = Boot {
            shard,
            shared: Arc::clone(&shared),
            cpu: plan.shards[shard],
            listeners,
            mailboxes,
            bells: Arc::clone(&bells),
            clock,
            report: report.clone(),
            go: wait_for_word,
        };
        handles.push(
            Builder::new()
                .name(format!("shard-{shard}"))
                .spawn(move || boot.run())?,
        );
    }
    drop(report);
    let threads = Threads { handles };
    match collect(&reports, shared.0.shards) {
        Ok((drivers, tables, fallback)) => {
            // A thread that is gone has panicked, and its join says so.
            for word in &go {
                let _ = word.send(());
            }
            Ok(Runtime {
                control,
                threads,
                local_addrs,
                drivers,
                tables,
                fallback,
            })
        }
        Err(error) => {
            drop(go);
            threads.join()?;
            Err(error)
        }
    }
}

/// Driver and table of each shard, and why a driver is another one than wanted.
type Collected = (Vec<DriverKind>, Vec<Option<usize>>, Option<String>);

fn collect(reports: &Receiver<Report>, shards: usize) -> io::Result<Collected> {
    let mut drivers = vec![DriverKind::Epoll; shards];
    let mut tables = vec![None; shards];
    let mut fallback = None;
    for _ in 0..shards {
        let report = reports
            .recv()
            .map_err(|_| io::Error::other("a shard panicked while it started"))?;
        let ready = report.outcome?;
        drivers[report.shard] = ready.driver;
        tables[report.shard] = ready.table;
        fallback = fallback.or(ready.fallback);
    }
    Ok((drivers, tables, fallback))
}

/// Tries to open a ring when there is no memory for it: the kernel frees the rings of a process that has just ended a
/// while after its end, and a restarted server must not fall back for that.
const MEMORY_TRIES: u32 = 10;

/// The wait before each.
const MEMORY_WAIT: Duration = Duration::from_millis(50);

/// What a thread needs to become a shard.
struct Boot<H: Handler, F> {
    shard: usize,
    shared: Arc<(Options, F)>,
    cpu: Option<usize>,
    listeners: Vec<TcpListener>,
    mailboxes: (Outgoing<H::Mail>, Incoming<H::Mail>),
    bells: Arc<Bells>,
    clock: Clock,
    report: Sender<Report>,
    go: Receiver<()>,
}

impl<H: Handler, F: Fn(ShardId) -> H> Boot<H, F> {
    fn run(mut self) {
        let listeners = std::mem::take(&mut self.listeners);
        let count = listeners.len() as u16;
        let node = Node(self.shard as u16);
        if let Err(error) = topology::pin(self.cpu) {
            return self.tell(Err(error));
        }
        let mut reason = None;
        let listeners = if self.shared.0.driver == DriverChoice::Epoll {
            listeners
        } else {
            match self.uring(&listeners, node) {
                Ok(driver) => return self.serve(driver, None, count),
                Err(error) if self.shared.0.driver == DriverChoice::Uring => {
                    let error = io::Error::new(error.kind(), uring::why_refused(&error));
                    return self.tell(Err(error));
                }
                Err(error) => reason = Some(uring::why_refused(&error)),
            }
            listeners
        };
        match Epoll::new(listeners, node, Arc::clone(&self.bells), self.clock) {
            Ok(driver) => self.serve(driver, reason, count),
            Err(error) => self.tell(Err(error)),
        }
    }

    fn uring(&self, listeners: &[TcpListener], node: Node) -> io::Result<Uring> {
        let mut tries = 0;
        loop {
            let listeners = listeners
                .iter()
                .map(TcpListener::try_clone)
                .collect::<io::Result<_>>()?;
            let bells = Arc::clone(&self.bells);
            match Uring::new(listeners, &self.shared.0, node, bells, self.clock) {
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM) && tries < MEMORY_TRIES =>
                {
                    tries += 1;
                    std::thread::park_timeout(MEMORY_WAIT);
                }
                result => return result,
            }
        }
    }

    fn tell(&self, outcome: io::Result<Ready>) {
        // The starter waits for every report, so it is there.
        let _ = self.report.send(Report {
            shard: self.shard,
            outcome,
        });
    }

    fn serve<D: Driver>(self, driver: D, reason: Option<String>, listener_count: u16) {
        self.tell(Ok(Ready {
            driver: driver.kind(),
            table: driver.sockets_max(),
            fallback: reason,
        }));
        if self.go.recv().is_err() {
            return;
        }
        let shard = ShardId(self.shard as u16);
        let handler = (self.shared.1)(shard);
        let mut shard = Shard::new(
            shard,
            &self.shared.0,
            handler,
            driver,
            self.mailboxes,
            listener_count,
        );
        shard.start();
        loop {
            let timeout = shard.plan();
            if !shard.turn(timeout) {
                break;
            }
        }
        shard.finish();
    }
}
