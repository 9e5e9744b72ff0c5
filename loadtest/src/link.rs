//! One socket of the load on monoio: connected, upgraded, joined; then read and written by hand.
//!
//! In: an address, a dialect, a topic. Out: a [`Link`] on which frames arrive.
//! monoio says when a socket can be read or written; the bytes are moved by plain non-blocking
//! calls into a buffer that all sockets of the thread share. An `io_uring` receive would pin one
//! buffer to every waiting socket: ten thousand of them would be pushed through the cache in turn,
//! and an idle socket would not be idle.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use monoio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::clock::now_ns;
use crate::codec::{self, Opcode};
use crate::dialect::{self, Answer, Dialect, FIRST_JOIN_REF, Join};
use crate::signal;
use crate::tokens::Tokens;

/// Sockets that share one source address of loopback: below the 28,232 ports that Linux hands out.
const SOCKETS_PER_ADDRESS: usize = 20_000;

/// Where to connect and what to say.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// The `Host` header: its first label names the tenant.
    pub host: String,
    /// The path of the WebSocket endpoint.
    pub path: String,
    /// The tokens, used in turn.
    pub tokens: Tokens,
    /// How messages are written.
    pub dialect: Dialect,
    /// How fast sockets may be opened; as fast as the server takes them when absent.
    pub opens: Option<Arc<Pace>>,
    /// The number of the first topic: loads that run at once have topics of their own.
    pub first_topic: usize,
    /// How often a member says that it is there.
    pub heartbeat: Duration,
    /// How long a member waits for an answer to its upgrade and its join.
    pub patience: Duration,
}

/// How often a client says that it is there. A server closes a socket that says nothing for a minute.
pub const HEARTBEAT: Duration = Duration::from_secs(20);

/// How long clients wait for the answer to a join before they give it up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Times that are handed out one by one, to all threads of the process.
#[derive(Debug)]
pub struct Pace {
    gap_ns: u64,
    next_ns: AtomicU64,
}

impl Pace {
    /// A pace of so many a second.
    pub fn per_second(count: f64) -> Self {
        Self {
            gap_ns: (1e9 / count.max(1e-3)) as u64,
            next_ns: AtomicU64::new(0),
        }
    }

    /// The next time, not before `now_ns`: a pause is not made up for.
    fn next(&self, now_ns: u64) -> u64 {
        let later = |next: u64| Some(next.max(now_ns) + self.gap_ns);
        let taken = self
            .next_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        taken.unwrap_or_default().max(now_ns)
    }

    async fn turn(&self) {
        let now = now_ns();
        let at = self.next(now);
        if at > now {
            monoio::time::sleep(Duration::from_nanos(at - now)).await;
        }
    }
}

impl Target {
    /// A bare server.
    pub fn bare(address: SocketAddr) -> Self {
        Self {
            address,
            host: "bare".to_owned(),
            path: String::new(),
            tokens: Tokens::given(""),
            dialect: Dialect::Bare,
            opens: None,
            first_topic: 0,
            heartbeat: HEARTBEAT,
            patience: PATIENCE,
        }
    }

    /// The topic with number `index` of this load.
    pub fn topic(&self, index: usize) -> String {
        self.dialect.topic(self.first_topic + index)
    }

    /// What `answer` comes to within this target's patience.
    ///
    /// # Errors
    ///
    /// What it says, or that it never came.
    pub async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let never = |_| format!("no answer within {:?}", self.patience);
        monoio::time::timeout(self.patience, answer)
            .await
            .map_err(never)?
    }

    /// The address that socket number `index` of this machine connects from: loopback has many, and
    /// each has ports of its own. Elsewhere the kernel chooses.
    pub fn source(&self, index: usize) -> Option<Ipv4Addr> {
        let last = u8::try_from(index / SOCKETS_PER_ADDRESS % 200).expect("below 200");
        match self.address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Some(Ipv4Addr::new(127, 0, 1, last + 1)),
            _ => None,
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// A frame is on its way out: the next one has to wait for its end.
    sending: Cell<bool>,
    /// The channels in which it is to be kept.
    channels: RefCell<Vec<Channel>>,
    /// When the heartbeat was sent that has not been answered; 0 when all have been.
    asked_ns: Cell<u64>,
    /// Nobody reads what comes: answers are not waited for.
    is_deaf: Cell<bool>,
}

/// A channel that a socket is in.
#[derive(Debug)]
struct Channel {
    topic: String,
    join_ref: u32,
    /// Whose token it has.
    user: usize,
    /// The turn that its token is of.
    turn: u32,
}

/// How long a heartbeat may go without an answer when the run ends.
const ANSWER: Duration = Duration::from_secs(5);

/// Opens socket number `index`, upgrades it and joins `topic`; the answer may leave bytes behind
/// it, which are handed over as well.
///
/// # Errors
///
/// What was refused or took longer than the target's patience, for a person to read.
pub async fn open(
    target: &Target,
    index: usize,
    topic: &str,
    join: &Join<'_>,
) -> Result<(Link, Vec<u8>), String> {
    if let Some(opens) = &target.opens {
        opens.turn().await;
    }
    target
        .in_time(shake_hands(target, index, topic, join))
        .await
}

async fn shake_hands(
    target: &Target,
    index: usize,
    topic: &str,
    join: &Join<'_>,
) -> Result<(Link, Vec<u8>), String> {
    let link = Link::connect(target.address, target.source(index))
        .await
        .map_err(|error| format!("connect: {error}"))?;
    let key = codec::upgrade_key(index as u128 + 1);
    // A turn that ends between the two lines has the token renewed too soon, not too late.
    let turn = target.tokens.turn();
    let token = target.tokens.of(index);
    let path = target.dialect.path_and_query(&target.path, &token, topic);
    let request = codec::upgrade_request(&target.host, &path, &key);
    link.send(&request)
        .await
        .map_err(|error| format!("upgrade: {error}"))?;
    let mut received = Vec::new();
    let end = loop {
        match codec::upgrade_answer(&received, &key)? {
            Some(end) => break end,
            None => link.receive_more(&mut received).await?,
        }
    };
    received.drain(..end);
    if target.dialect.joins() {
        let mut frame = Vec::new();
        let mask = index as u32 | 1;
        target.dialect.push_join(topic, join, mask, &mut frame);
        link.send(&frame)
            .await
            .map_err(|error| format!("join: {error}"))?;
        link.joined(target.dialect, FIRST_JOIN_REF, &mut received)
            .await?;
        link.enter(topic, FIRST_JOIN_REF, index, turn);
    }
    Ok((link, received))
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.stream` and is closed only when that is dropped;
        // the borrow of `self` ends before.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}

impl Link {
    /// Connects and says nothing yet.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub async fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            // The port is chosen at connect, when the destination is known: every port of an
            // address can then be used once for each destination.
            bind_address_only(&socket)?;
            socket.bind(&SocketAddr::new(source.into(), 0).into())?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let link = Self {
            stream: TcpStream::from_std(socket.into())?,
            sending: Cell::new(false),
            channels: RefCell::default(),
            asked_ns: Cell::new(0),
            is_deaf: Cell::new(false),
        };
        wait(|| link.stream.writable(false)).await?;
        match link.socket().take_error()? {
            None => Ok(link),
            Some(error) => Err(error),
        }
    }

    /// The socket, for plain calls.
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// Notes that the socket is in a channel now, beside those that it is in already, with the token that `user` has in `turn`.
    pub fn enter(&self, topic: &str, join_ref: u32, user: usize, turn: u32) {
        self.channels.borrow_mut().push(Channel {
            topic: topic.to_owned(),
            join_ref,
            user,
            turn,
        });
    }

    /// Notes that it is in no channel now.
    pub fn leave(&self) {
        self.channels.take();
    }

    /// Sends a heartbeat, and says whether one before it has not been answered within `patience`.
    pub async fn beat(&self, frame: &[u8], patience: Duration) -> bool {
        // One that is sending is heard of without.
        if self.sending.get() {
            return false;
        }
        let is_late = self.has_waited(patience);
        if is_late || self.asked_ns.get() == 0 {
            self.asked_ns.set(now_ns());
        }
        // One that has ended is noticed where it is read.
        let _ = self.send(frame).await;
        is_late
    }

    /// Whether there has been no answer to a heartbeat for longer than `patience`.
    fn has_waited(&self, patience: Duration) -> bool {
        let asked_ns = self.asked_ns.get();
        let waited_ns = now_ns().saturating_sub(asked_ns);
        !self.is_deaf.get() && asked_ns > 0 && waited_ns > patience.as_nanos() as u64
    }

    /// Notes that a heartbeat has been answered.
    pub fn answered(&self) {
        self.asked_ns.set(0);
    }

    /// Whether a heartbeat is without an answer for so long that none will come.
    pub fn is_overdue(&self) -> bool {
        self.has_waited(ANSWER)
    }

    /// Gives each channel that has an older token the one of `turn`; says how many did not have it.
    pub async fn renew(&self, target: &Target, turn: u32) -> u64 {
        let (mut frames, mut renewed) = (Vec::new(), 0);
        for channel in &mut *self.channels.borrow_mut() {
            if channel.turn < turn {
                channel.turn = turn;
                let token = target.tokens.of(channel.user);
                let (dialect, topic) = (target.dialect, &channel.topic);
                dialect.push_access_token(topic, channel.join_ref, &token, &mut frames);
                renewed += 1;
            }
        }
        if renewed == 0 {
            return 0;
        }
        // One that has ended is noticed where it is read.
        match self.send(&frames).await {
            Ok(_) => renewed,
            Err(_) => 0,
        }
    }

    /// Nobody will read what comes, and so no answer is waited for. The kernel takes a window's worth and then no more: a smaller
    /// buffer, now that the window has been offered, would drop what comes and leave the server to its retransmission timer.
    pub fn ignore_answers(&self) {
        self.is_deaf.set(true);
    }

    /// Ends both directions; whoever waits on the socket sees its end.
    pub fn shut_down(&self) {
        // A server that was faster has left nothing to shut down.
        let _ = self.socket().shutdown(Shutdown::Both);
    }

    /// Waits until there is something to receive, or an end.
    ///
    /// # Errors
    ///
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        wait(|| self.stream.readable(false)).await
    }

    /// Receives what is there into `buffer`: 0 bytes are the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; otherwise the connection is lost.
    #[inline]
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.socket()).read(buffer)
    }

    /// Sends all of `bytes`, waiting while the server does not take them or another task sends. To be
    /// awaited to its end: a frame that is half sent blocks the others.
    ///
    /// # Errors
    ///
    /// When the connection is lost.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        while self.sending.replace(true) {
            signal::yield_now().await;
        }
        let sent = self.send_all(bytes).await;
        self.sending.set(false);
        sent
    }

    async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = (&*self.socket()).write(bytes);
            match sent {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(|| self.stream.writable(false)).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for bytes and appends them. Not for the load itself.
    ///
    /// # Errors
    ///
    /// Why none will come.
    pub async fn receive_more(&self, received: &mut Vec<u8>) -> Result<(), String> {
        let mut buffer = [0; 4096];
        loop {
            match self.receive(&mut buffer) {
                Ok(0) => return Err("closed before it was joined".to_owned()),
                Ok(count) => {
                    received.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self
                    .readable()
                    .await
                    .map_err(|error| format!("wait: {error}"))?,
                Err(error) => return Err(format!("receive: {error}")),
            }
        }
    }

    /// Waits for the answer to the join with this number; frames before it are passed over, frames after it stay. Says how many
    /// other joins were answered meanwhile: once more, since each is waited for.
    ///
    /// # Errors
    ///
    /// That it was refused, or why the connection is over.
    pub async fn joined(
        &self,
        dialect: Dialect,
        join_ref: u32,
        received: &mut Vec<u8>,
    ) -> Result<u64, String> {
        let mut again = 0;
        self.until(received, |payload| match dialect.answer(payload) {
            Answer::Ok if dialect.is_reply_to(payload, join_ref) => Some(Ok(again)),
            Answer::Ok => {
                again += 1;
                None
            }
            Answer::Refused => Some(Err(format!(
                "join refused: {}",
                String::from_utf8_lossy(payload)
            ))),
            Answer::Other => None,
        })
        .await
    }

    /// Waits until rows of the tenant's database are broadcast, which a join has asked to be told.
    ///
    /// # Errors
    ///
    /// What came instead: the end of the channel or of the connection.
    pub async fn replication_ready(
        &self,
        dialect: Dialect,
        received: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.until(received, |payload| {
            if dialect::says_replication_is_ready(payload) {
                return Some(Ok(()));
            }
            let refused = dialect.answer(payload) == Answer::Refused;
            refused.then(|| {
                Err(format!(
                    "channel ended: {}",
                    String::from_utf8_lossy(payload)
                ))
            })
        })
        .await
    }

    /// Waits until the channel is subscribed to the row changes that its join has asked for.
    ///
    /// # Errors
    ///
    /// What came instead: why it is not subscribed, the end of the channel or of the connection.
    pub async fn subscribed(&self, dialect: Dialect, received: &mut Vec<u8>) -> Result<(), String> {
        self.until(received, |payload| {
            let refused = dialect.answer(payload) == Answer::Refused;
            match dialect::says_changes(payload) {
                Some(true) => Some(Ok(())),
                None if !refused => None,
                _ => Some(Err(format!(
                    "not subscribed: {}",
                    String::from_utf8_lossy(payload)
                ))),
            }
        })
        .await
    }

    /// Hands data frames to `found` until it answers; what comes after that stays in `received`. Not
    /// for the load itself: bytes are moved.
    ///
    /// # Errors
    ///
    /// What `found` says, or why the connection is over.
    pub async fn until<T>(
        &self,
        received: &mut Vec<u8>,
        mut found: impl FnMut(&[u8]) -> Option<Result<T, String>>,
    ) -> Result<T, String> {
        loop {
            while let Some(frame) =
                codec::next_frame(received).map_err(|error| format!("frame: {error:?}"))?
            {
                let payload = &received[frame.payload_start..frame.end];
                let answer = match frame.opcode {
                    Opcode::Text | Opcode::Binary => found(payload),
                    Opcode::Close => {
                        return Err(format!("closed with {:?}", codec::close_code(payload)));
                    }
                    Opcode::Ping | Opcode::Pong => None,
                };
                received.drain(..frame.end);
                if let Some(answer) = answer {
                    return answer;
                }
            }
            self.receive_more(received).await?;
        }
    }
}

/// Waits for readiness; the legacy driver may say `WouldBlock` and wants to be asked again.
async fn wait<F: Future<Output = io::Result<()>>>(mut ready: impl FnMut() -> F) -> io::Result<()> {
    loop {
        match ready().await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

fn bind_address_only(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option's value is an int that lives for the call and
    // whose size is given.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_handed_out_evenly_and_a_pause_is_not_made_up_for() {
        let pace = Pace::per_second(1000.0);
        let times = [5, 5, 3_000_000, 3_000_000].map(|now| pace.next(now));
        assert_eq!(times, [5, 1_000_005, 3_000_000, 4_000_000]);
    }

    #[test]
    fn sockets_of_loopback_spread_over_its_addresses() {
        let mut target = Target::bare(SocketAddr::from(([127, 0, 0, 1], 4000)));
        let check = |index, last| {
            assert_eq!(target.source(index), Some(Ipv4Addr::new(127, 0, 1, last)));
        };
        check(0, 1);
        check(19_999, 1);
        check(20_000, 2);
        check(70_000, 4);
        check(20_000 * 200, 1);
        target.address = SocketAddr::from(([192, 0, 2, 1], 4000));
        assert_eq!(target.source(5), None);
    }
}
