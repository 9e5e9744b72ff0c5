//! A handler that echoes, obeys and reports, and the test's side of it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use shards::{
    Close, Closed, ConnectionId, ControlPort, DriverChoice, DriverKind, Handler, Io, Listen,
    LocalBytes, Options, Peer, Placement, Runtime, ShardId, Threads, Tick,
};

/// What the test tells a shard.
#[derive(Debug)]
pub(crate) enum Do {
    Flood {
        id: ConnectionId,
        buffers: u32,
    },
    /// Buffers of one byte.
    Trickle {
        id: ConnectionId,
        buffers: u32,
    },
    FloodAndFlush {
        id: ConnectionId,
        buffers: u32,
    },
    FloodAndReplace {
        id: ConnectionId,
        buffers: u32,
        last: Vec<u8>,
    },
    FloodAndFinal {
        id: ConnectionId,
        buffers: u32,
    },
    Abort {
        id: ConnectionId,
    },
    Detach {
        id: ConnectionId,
    },
    Adopt(OwnedFd),
    Around {
        hops: u32,
    },
    Self_ {
        hops: u32,
    },
    Burst {
        to: u16,
        letters: u32,
    },
    Report {
        letters: u32,
    },
    Number(u32),
    /// Does nothing until the other end is dropped.
    StandStill(Receiver<()>),
    VisitIn {
        id: ConnectionId,
        seconds: u32,
    },
    TimerIn {
        ms: u64,
    },
    Count,
    Turns,
    Stop,
}

/// What a shard tells the test.
#[derive(Debug)]
pub(crate) enum Told {
    Accepted(ConnectionId),
    Adopted,
    Closed(ConnectionId, Closed),
    Detached(ConnectionId, OwnedFd),
    Stalled(ConnectionId, usize),
    Visited(ConnectionId, i64),
    Timer {
        late_us: i64,
    },
    Around(ShardId),
    Self_,
    Numbered(u32),
    Count(usize),
    Turns {
        turns: u64,
        held: u64,
        parked: u64,
        sends: u64,
        half_closes: u64,
    },
}

/// Both directions of the mesh.
#[derive(Debug)]
pub(crate) enum Letter {
    Do(Do),
    Told(Told),
}

/// The bytes of a flood: `buffers` buffers, each filled with its number, of sizes from 0 to 699 bytes, every 100th of
/// 70,000.
pub(crate) fn flood(buffers: u32) -> Vec<u8> {
    (0..buffers).flat_map(flood_buffer).collect()
}

fn flood_buffer(n: u32) -> Vec<u8> {
    let length = if n % 100 == 99 {
        70_000
    } else {
        n as usize % 700
    };
    vec![n as u8; length]
}

/// The handler.
#[derive(Default)]
pub(crate) struct Probe {
    visit_wanted: u64,
    timer_wanted: Tick,
}

impl Probe {
    fn tell(io: &mut Io<'_, Letter>, told: Told) {
        io.mail(Peer::Control, Letter::Told(told));
    }

    fn flood(io: &mut Io<'_, Letter>, id: ConnectionId, buffers: u32) {
        for n in 0..buffers {
            io.send(id, LocalBytes::from(flood_buffer(n)));
        }
    }

    fn obey(&mut self, io: &mut Io<'_, Letter>, order: Do) {
        match order {
            Do::Flood { id, buffers } => Self::flood(io, id, buffers),
            Do::Trickle { id, buffers } => {
                for _ in 0..buffers {
                    io.send(id, LocalBytes::from(vec![1]));
                }
            }
            Do::FloodAndFlush { id, buffers } => {
                Self::flood(io, id, buffers);
                io.close(id, Close::Flush);
                assert_eq!(io.send(id, LocalBytes::from(vec![1])), 0, "it is gone");
            }
            Do::FloodAndReplace { id, buffers, last } => {
                Self::flood(io, id, buffers);
                io.close(id, Close::Replace(LocalBytes::from(last)));
            }
            Do::FloodAndFinal { id, buffers } => {
                Self::flood(io, id, buffers);
                io.close(id, Close::Final);
            }
            Do::Abort { id } => io.close(id, Close::Abort),
            Do::Detach { id } => io.detach(id),
            Do::Adopt(socket) => {
                io.adopt(socket).expect("there is room");
                Self::tell(io, Told::Adopted);
            }
            Do::Around { hops: 0 } => {
                let shard = io.shard();
                Self::tell(io, Told::Around(shard));
            }
            Do::Around { hops } => {
                let next = ShardId((io.shard().0 + 1) % io.shard_count() as u16);
                io.mail(Peer::Shard(next), Letter::Do(Do::Around { hops: hops - 1 }));
            }
            Do::Self_ { hops: 0 } => Self::tell(io, Told::Self_),
            Do::Self_ { hops } => {
                let own = io.shard();
                io.mail(Peer::Shard(own), Letter::Do(Do::Self_ { hops: hops - 1 }));
            }
            Do::Burst { to, letters } => {
                (0..letters)
                    .for_each(|n| io.mail(Peer::Shard(ShardId(to)), Letter::Do(Do::Number(n))));
            }
            Do::Report { letters } => (0..letters).for_each(|n| Self::tell(io, Told::Numbered(n))),
            Do::Number(n) => Self::tell(io, Told::Numbered(n)),
            Do::StandStill(end) => drop(end.recv()),
            Do::VisitIn { id, seconds } => {
                let second = (io.unix_ms() / 1000) as u32 + seconds;
                self.visit_wanted = u64::from(second) * 1000;
                io.visit_at(id, second + 30);
                io.visit_at(id, second);
                io.visit_at(id, second + 2);
            }
            Do::TimerIn { ms } => {
                self.timer_wanted = io.now().after(Duration::from_millis(ms));
                io.set_timer(self.timer_wanted, 7);
            }
            Do::Count => {
                let count = io.connection_count();
                Self::tell(io, Told::Count(count));
            }
            Do::Turns => {
                let metrics = io.metrics();
                let told = Told::Turns {
                    turns: metrics.turns.get(),
                    held: metrics.turns_held.get(),
                    parked: metrics.receives_parked.get(),
                    sends: metrics.sends.get(),
                    half_closes: metrics.half_closes.get(),
                };
                Self::tell(io, told);
            }
            Do::Stop => io.stop(),
        }
    }
}

impl Handler for Probe {
    type Mail = Letter;

    fn on_accept(&mut self, io: &mut Io<'_, Letter>, id: ConnectionId) {
        Self::tell(io, Told::Accepted(id));
    }

    fn on_bytes(&mut self, io: &mut Io<'_, Letter>, id: ConnectionId, bytes: &mut [u8]) {
        io.send(id, LocalBytes::from(bytes.to_vec()));
    }

    fn on_close(&mut self, io: &mut Io<'_, Letter>, id: ConnectionId, why: Closed) {
        assert_eq!(io.send(id, LocalBytes::from(vec![1])), 0, "it is gone");
        Self::tell(io, Told::Closed(id, why));
    }

    fn on_detached(&mut self, io: &mut Io<'_, Letter>, id: ConnectionId, socket: OwnedFd) {
        Self::tell(io, Told::Detached(id, socket));
    }

    fn on_mail(&mut self, io: &mut Io<'_, Letter>, _from: Peer, mail: Letter) {
        if let Letter::Do(order) = mail {
            self.obey(io, order);
        }
    }

    fn on_timer(&mut self, io: &mut Io<'_, Letter>, key: u64) {
        assert_eq!(key, 7);
        let late_us = (io.now().0 as i64 - self.timer_wanted.0 as i64) / 1000;
        Self::tell(io, Told::Timer { late_us });
    }

    fn on_visit(&mut self, io: &mut Io<'_, Letter>, id: ConnectionId) {
        let late_ms = io.unix_ms() as i64 - self.visit_wanted as i64;
        Self::tell(io, Told::Visited(id, late_ms));
    }

    fn on_stalled(&mut self, io: &mut Io<'_, Letter>, id: ConnectionId) {
        let queued = io.queued_bytes(id);
        Self::tell(io, Told::Stalled(id, queued));
    }

    fn on_turn_end(&mut self, _io: &mut Io<'_, Letter>) {}
}

/// What the shards run on.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Kernel {
    Auto,
    Uring,
    /// Without direct descriptors.
    UringOfOld,
    Epoll,
}

/// Starts shards with the probe on them.
pub(crate) fn start(options: Options) -> io::Result<Runtime<Letter>> {
    shards::start(options, |_| Probe::default())
}

/// The test's side: control port, address, and what was told but not asked for yet.
pub(crate) struct Bench {
    control: ControlPort<Letter>,
    threads: Threads,
    addr: SocketAddr,
    driver: DriverKind,
    fallback: Option<String>,
    told: Vec<(u16, Told)>,
}

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

impl Bench {
    pub(crate) fn start(kernel: Kernel, shards: usize, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            shards,
            cpus: Placement::Unpinned,
            listen: Listen::Addrs(vec!["127.0.0.1:0".parse().expect("an address")]),
            driver: match kernel {
                Kernel::Auto => DriverChoice::Auto,
                Kernel::Uring | Kernel::UringOfOld => DriverChoice::Uring,
                Kernel::Epoll => DriverChoice::Epoll,
            },
            direct_descriptors: !matches!(kernel, Kernel::UringOfOld),
            connections_max: 1000,
            ..Options::default()
        };
        change(&mut options);
        let runtime = start(options).expect("the shards start");
        let (addr, driver) = (runtime.local_addr(), runtime.drivers()[0]);
        let fallback = runtime.fallback_reason().map(str::to_owned);
        let (control, threads) = runtime.into_parts();
        Self {
            control,
            threads,
            addr,
            driver,
            fallback,
            told: Vec::new(),
        }
    }

    pub(crate) fn driver(&self) -> DriverKind {
        self.driver
    }

    pub(crate) fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.addr).expect("the shard listens");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket option");
        socket.set_nodelay(true).expect("a socket option");
        socket
    }

    /// A connection with the name that the (only) shard gave it.
    pub(crate) fn connect_known(&mut self) -> (TcpStream, ConnectionId) {
        let (socket, _, id) = self.connect_anywhere();
        (socket, id)
    }

    /// A connection with its shard and name.
    pub(crate) fn connect_anywhere(&mut self) -> (TcpStream, u16, ConnectionId) {
        self.told
            .retain(|(_, told)| !matches!(told, Told::Accepted(_)));
        let socket = self.connect();
        match self.expect_from(|told| matches!(told, Told::Accepted(_))) {
            (shard, Told::Accepted(id)) => (socket, shard, id),
            other => unreachable!("not asked for: {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, shard: u16, order: Do) {
        self.control.send(ShardId(shard), Letter::Do(order));
    }

    pub(crate) fn count(&mut self, shard: u16) -> usize {
        self.send(shard, Do::Count);
        match self.expect(|told| matches!(told, Told::Count(_))) {
            Told::Count(count) => count,
            other => unreachable!("not asked for: {other:?}"),
        }
    }

    /// The first of what is told that `wanted` likes; the rest is kept.
    pub(crate) fn expect(&mut self, wanted: impl Fn(&Told) -> bool) -> Told {
        self.expect_from(wanted).1
    }

    fn expect_from(&mut self, wanted: impl Fn(&Told) -> bool) -> (u16, Told) {
        if let Some(at) = self.told.iter().position(|(_, told)| wanted(told)) {
            return self.told.remove(at);
        }
        loop {
            while let Some((shard, letter)) = self.control.receive() {
                let Letter::Told(told) = letter else { continue };
                if wanted(&told) {
                    return (shard.0, told);
                }
                self.told.push((shard.0, told));
            }
            if self.control.arm() {
                assert!(
                    self.poll(PATIENCE),
                    "nothing was told in time; before: {:?}",
                    self.told
                );
            }
            self.control.disarm();
        }
    }

    /// Waits for the doorbell; letters that come are kept for later.
    pub(crate) fn wait_ms(&mut self, ms: u64) {
        if self.control.arm() {
            self.poll(Duration::from_millis(ms));
        }
        self.control.disarm();
    }

    fn poll(&self, wait: Duration) -> bool {
        let fd = self
            .control
            .doorbell()
            .expect("a real runtime has one")
            .as_raw_fd();
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // JUSTIFICATION: std cannot wait for a descriptor with a timeout.
        // SAFETY: one valid pollfd is passed.
        let ready = unsafe { libc::poll(&raw mut poll, 1, wait.as_millis() as i32) };
        ready > 0
    }

    pub(crate) fn stop(self) {
        self.stop_after(|_| {});
    }

    /// Stops the shards and looks at everything that they told and nobody asked for.
    pub(crate) fn stop_after(mut self, check: impl Fn(&Told)) {
        for shard in 0..self.control.shard_count() as u16 {
            self.send(shard, Do::Stop);
        }
        self.threads.join().expect("no shard panicked");
        while let Some((_, letter)) = self.control.receive() {
            if let Letter::Told(told) = letter {
                check(&told);
            }
        }
        self.told.iter().for_each(|(_, told)| check(told));
    }
}
