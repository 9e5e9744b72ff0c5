//! Shards of the product on the simulated kernel, with a stop-watch around every call that the runtime makes.
//!
//! In: what clients and the control core say. Out: how long the product took for it, by kind of call. Always holds: nothing of the
//! simulated kernel is in these times, and reading the clock is (some 50 ns a call, which is why a call gets many frames). Every
//! turn takes at most 32 receives: the simulated kernel has no more buffers. Deliberately absent: the runtime's own part of a
//! frame (queue, send, completion), which `runtimes.rs` measures on real sockets.

use realtime::auth::{ClaimValidators, Verifier, sign_hs256};
use realtime::channel::{Channels, Settings};
use realtime::connection::OpenSockets;
use realtime::error::Level;
use realtime::fanout::Fanout;
use realtime::http::HeadLimits;
use realtime::mail::{DatabaseState, Listen, Mail, TopicHasher, TopicKey};
use realtime::metrics::Board;
use realtime::shard::{Shard, UpgradeSettings};
use realtime::tenant::{Tenant, TenantDirectory, TenantId, TenantLimits, Usage};
use realtime::websocket::{Opcode, encode_header, unmask};
use shards::sim::{Faults, PeerId, Sim};
use shards::{Closed, ConnectionId, Handler, Io, Options, Peer, ShardId};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When the simulation begins, in seconds since 1970.
const BEGIN: u64 = 1_700_000_000;

/// Sockets of a bed at most.
const SOCKETS_MAX: usize = 20_000;

const SECRET: &[u8] = b"a secret of the benchmarks, long enough for an HMAC";

/// What the runtime calls the product for.
#[derive(Copy, Clone)]
pub(crate) enum Call {
    /// Bytes of a client.
    Bytes,
    /// A letter of another thread.
    Letter,
    /// The end of a turn.
    TurnEnd,
    /// Everything else: the end of a socket is what matters of it.
    Other,
}

/// What the product took, by kind of call, since it was asked last.
#[derive(Default)]
pub(crate) struct Watch {
    spent: [Cell<Duration>; 4],
    /// The turn that is not over yet.
    turn: Cell<Duration>,
    longest_turn: Cell<Duration>,
}

impl Watch {
    fn time<R>(&self, call: Call, run: impl FnOnce() -> R) -> R {
        let began = now();
        let result = super::allocations::counted(run);
        let took = now().duration_since(began);
        let add = |to: &Cell<Duration>| to.set(to.get() + took);
        add(&self.spent[call as usize]);
        add(&self.turn);
        if matches!(call, Call::TurnEnd) {
            let turn = self.turn.take();
            self.longest_turn.set(self.longest_turn.get().max(turn));
        }
        result
    }

    /// The time of these calls.
    pub(crate) fn of(&self, calls: &[Call]) -> Duration {
        calls
            .iter()
            .map(|call| self.spent[*call as usize].get())
            .sum()
    }

    fn reset(&self) {
        self.spent
            .iter()
            .for_each(|spent| spent.set(Duration::ZERO));
        self.longest_turn.set(Duration::ZERO);
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is about time")]
fn now() -> Instant {
    Instant::now()
}

/// The product on one shard, watched.
pub(crate) struct Watched {
    shard: Shard,
    watch: Rc<Watch>,
}

impl Handler for Watched {
    type Mail = Mail;

    fn on_start(&mut self, io: &mut Io<'_, Mail>) {
        self.shard.on_start(io);
    }

    fn on_accept(&mut self, io: &mut Io<'_, Mail>, id: ConnectionId) {
        self.watch
            .time(Call::Other, || self.shard.on_accept(io, id));
    }

    fn on_bytes(&mut self, io: &mut Io<'_, Mail>, id: ConnectionId, bytes: &mut [u8]) {
        self.watch
            .time(Call::Bytes, || self.shard.on_bytes(io, id, bytes));
    }

    fn on_close(&mut self, io: &mut Io<'_, Mail>, id: ConnectionId, why: Closed) {
        self.watch
            .time(Call::Other, || self.shard.on_close(io, id, why));
    }

    fn on_detached(&mut self, io: &mut Io<'_, Mail>, id: ConnectionId, socket: OwnedFd) {
        self.shard.on_detached(io, id, socket);
    }

    fn on_mail(&mut self, io: &mut Io<'_, Mail>, from: Peer, mail: Mail) {
        self.watch
            .time(Call::Letter, || self.shard.on_mail(io, from, mail));
    }

    fn on_timer(&mut self, io: &mut Io<'_, Mail>, key: u64) {
        self.watch
            .time(Call::Other, || self.shard.on_timer(io, key));
    }

    fn on_visit(&mut self, io: &mut Io<'_, Mail>, id: ConnectionId) {
        self.watch.time(Call::Other, || self.shard.on_visit(io, id));
    }

    fn on_stalled(&mut self, io: &mut Io<'_, Mail>, id: ConnectionId) {
        self.watch
            .time(Call::Other, || self.shard.on_stalled(io, id));
    }

    fn on_turn_end(&mut self, io: &mut Io<'_, Mail>) {
        self.watch
            .time(Call::TurnEnd, || self.shard.on_turn_end(io));
    }
}

/// Shards, one tenant, and clients.
pub(crate) struct Bed {
    sim: Sim<Watched>,
    pub(crate) watch: Rc<Watch>,
    pub(crate) tenant: Arc<Tenant>,
    shards: usize,
    token: String,
    clients: Vec<PeerId>,
    /// The channels that listen to row changes, as the control core was told.
    pub(crate) listens: Vec<(ShardId, Listen)>,
}

impl Bed {
    /// So many shards without clients, and a tenant whose database is connected.
    pub(crate) fn new(shards: usize) -> Self {
        let tenant = tenant(shards);
        let mut directory = TenantDirectory::default();
        directory.insert(Arc::clone(&tenant));
        let (open_sockets, board) = (OpenSockets::new(SOCKETS_MAX), Board::new(shards));
        let watch = Rc::new(Watch::default());
        let make = |id| Watched {
            shard: shard(
                id,
                shards,
                directory.clone(),
                open_sockets.clone(),
                board.clone(),
            ),
            watch: Rc::clone(&watch),
        };
        let options = Options {
            shards,
            connections_max: SOCKETS_MAX,
            ..Options::default()
        };
        let mut bed = Self {
            sim: Sim::with_options(1, Faults::none(), options, make),
            watch: Rc::clone(&watch),
            shards,
            token: token(BEGIN + 3600),
            tenant,
            clients: Vec::new(),
            listens: Vec::new(),
        };
        let state = DatabaseState {
            is_connected: true,
            is_replicating: true,
        };
        for shard in 0..shards {
            let tenant = bed.tenant.id;
            bed.mail(shard, Mail::Database { tenant, state });
        }
        bed.run();
        bed
    }

    /// A client that asks for its upgrade, with the token that all share.
    pub(crate) fn connect(&mut self, shard: usize, vsn: u8) -> PeerId {
        let client = self.sim.connect(shard_id(shard));
        self.sim.peer(client).write(&upgrade(vsn, &self.token));
        self.clients.push(client);
        client
    }

    /// A client that has said nothing.
    pub(crate) fn open(&mut self, shard: usize) -> PeerId {
        let client = self.sim.connect(shard_id(shard));
        self.clients.push(client);
        self.run();
        client
    }

    /// So many clients of a shard that have joined a topic.
    pub(crate) fn crowd(
        &mut self,
        shard: usize,
        vsn: u8,
        count: usize,
        topic: &str,
        config: &str,
    ) -> Vec<PeerId> {
        let clients: Vec<_> = (0..count).map(|_| self.connect(shard, vsn)).collect();
        self.run();
        for client in &clients {
            self.write(*client, &join(vsn, topic, config));
        }
        self.run();
        self.drain();
        let fanout = &self.shard(shard).channels().fanout;
        let joined = fanout
            .find(self.tenant.id, false, topic)
            .and_then(|topic| fanout.topic(topic))
            .map_or(0, |topic| topic.members.len());
        assert!(joined >= count, "{joined} of {count} have joined");
        clients
    }

    /// Sends bytes; they arrive with the next turn.
    pub(crate) fn write(&mut self, client: PeerId, bytes: &[u8]) {
        self.sim.peer(client).write(bytes);
    }

    /// Ends a client.
    pub(crate) fn end(&mut self, client: PeerId) {
        self.sim.peer(client).fin();
    }

    /// Sends a letter of the control core.
    pub(crate) fn mail(&mut self, shard: usize, mail: Mail) {
        self.sim.control.send(shard_id(shard), mail);
    }

    /// Lets everything happen that can.
    pub(crate) fn run(&mut self) {
        loop {
            self.sim.run_until_idle();
            let mut took = false;
            while let Some((from, letter)) = self.sim.control.receive() {
                took = true;
                if let Mail::Listen(listen) = letter {
                    self.listens.push((from, *listen));
                }
            }
            if !took {
                return;
            }
        }
    }

    /// Has all clients read what has come; returns how many bytes that were.
    pub(crate) fn drain(&mut self) -> usize {
        let read = |client: &PeerId| self.sim.peer(*client).read().len();
        self.clients.iter().map(read).sum()
    }

    /// Runs `each` so many times, and has clients read after it; returns what the product took for these calls.
    pub(crate) fn measure(
        &mut self,
        calls: &[Call],
        times: u64,
        mut each: impl FnMut(&mut Self),
    ) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..times {
            self.watch.reset();
            each(self);
            self.run();
            total += self.watch.of(calls);
            self.drain();
        }
        total
    }

    /// The longest turn of what `run` leads to, as far as it is the product's.
    pub(crate) fn longest_turn(&mut self, run: impl FnOnce(&mut Self)) -> Duration {
        self.watch.reset();
        run(self);
        self.run();
        self.watch.longest_turn.get()
    }

    /// The product on a shard.
    pub(crate) fn shard(&self, n: usize) -> &Shard {
        &self.sim.handler(shard_id(n)).shard
    }

    /// A topic that this shard owns.
    pub(crate) fn topic_of(&self, shard: usize) -> String {
        let hasher = hasher();
        let owner = |name: &str| {
            let hash = hasher.hash(self.tenant.id, false, name);
            usize::from(TopicKey::owner_of(hash, self.shards).0)
        };
        let name = (0..)
            .map(|n| format!("room-{n}"))
            .find(|name| owner(name) == shard)
            .expect("every shard owns some names");
        format!("realtime:{name}")
    }
}

/// The head of an upgrade, as supabase-js sends it from a browser.
pub(crate) fn upgrade(vsn: u8, token: &str) -> Vec<u8> {
    format!(
        "GET /realtime/v1/websocket?apikey={token}&log_level=error&vsn={vsn}.0.0 HTTP/1.1\r\nHost: t.localhost\r\n\
         Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) \
         AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: http://localhost:3000\r\n\
         Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A masked frame with this text.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    frame(Opcode::Text, text.as_bytes())
}

/// A masked frame.
pub(crate) fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = Vec::new();
    encode_header(&mut bytes, opcode, payload.len());
    bytes[1] |= 0x80;
    bytes.extend(mask);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut bytes[start..], mask, 0);
    bytes
}

/// A message of a client, as the frame that its serializer makes of it.
pub(crate) fn message(vsn: u8, topic: &str, event: &str, payload: &str) -> Vec<u8> {
    text_frame(&match vsn {
        1 => format!(
            r#"{{"topic":"{topic}","event":"{event}","payload":{payload},"ref":"2","join_ref":"1"}}"#
        ),
        _ => format!(r#"["1","2","{topic}","{event}",{payload}]"#),
    })
}

/// A join as supabase-js sends it, with this `config`.
pub(crate) fn join(vsn: u8, topic: &str, config: &str) -> Vec<u8> {
    message(vsn, topic, "phx_join", &format!(r#"{{"config":{config}}}"#))
}

/// `config` of a public channel as supabase-js makes it when nobody asks for anything.
pub(crate) const PLAIN: &str = r#"{"broadcast":{"ack":false,"self":false},"presence":{"key":"","enabled":false},"postgres_changes":[],"private":false}"#;

/// The same of somebody who wants to read what it sends.
pub(crate) const SELF: &str = r#"{"broadcast":{"ack":false,"self":true},"presence":{"key":"","enabled":false},"postgres_changes":[],"private":false}"#;

/// The same with presence.
pub(crate) const PRESENCE: &str = r#"{"broadcast":{"ack":false,"self":false},"presence":{"key":"","enabled":true},"postgres_changes":[],"private":false}"#;

/// A broadcast payload of about so many bytes.
pub(crate) fn broadcast_payload(bytes: usize) -> String {
    let around = r#"{"type":"broadcast","event":"cursor","payload":{"text":""}}"#.len();
    let text = "a few words 123 ".repeat(bytes / 16 + 1);
    let text = &text[..bytes.saturating_sub(around)];
    format!(r#"{{"type":"broadcast","event":"cursor","payload":{{"text":"{text}"}}}}"#)
}

/// A shard by its number.
pub(crate) fn shard_id(n: usize) -> ShardId {
    ShardId(u16::try_from(n).expect("there are few shards"))
}

/// A token of the tenant that expires at this second.
pub(crate) fn token(exp: u64) -> String {
    let claims = format!(
        r#"{{"iss":"supabase","ref":"abcdefghijklmnopqrst","role":"anon","iat":1600000000,"exp":{exp}}}"#
    );
    sign_hs256(SECRET, &claims)
}

fn hasher() -> TopicHasher {
    TopicHasher::new(42)
}

/// A tenant whose limits nothing here comes near.
fn tenant(shards: usize) -> Arc<Tenant> {
    let limits = TenantLimits {
        users_max: 1_000_000,
        joins_per_second_max: 1_000_000,
        channels_per_socket_max: 1000,
        events_per_second_max: 1_000_000,
        presence_events_per_second_max: 1_000_000,
        client_presence_calls_max: 1_000_000,
        ..TenantLimits::default()
    };
    Arc::new(Tenant {
        id: TenantId(1),
        external_id: "t".into(),
        verifier: Verifier::new(
            Some(SECRET.to_vec()),
            None,
            Arc::new(ClaimValidators::default()),
        ),
        limits,
        suspended: false,
        private_only: false,
        presence_enabled: false,
        has_database: true,
        usage: Arc::new(Usage::new(shards + 1)),
    })
}

fn shard(
    id: ShardId,
    shards: usize,
    tenants: TenantDirectory,
    open_sockets: OpenSockets,
    board: Board,
) -> Shard {
    let settings = Settings {
        channel_error_backoff: Duration::from_secs(5),
        queued_bytes_max: 50_000_000,
        partial_bytes_max: 50_000_000,
        idle_timeout_seconds: 60,
        open_sockets,
        log_level: Level::Error.into(),
        board,
    };
    let upgrades = UpgradeSettings {
        connect_error_backoff: Duration::from_secs(2),
        no_channel_timeout: Duration::from_secs(600),
        any_host_single_tenant: true,
        seeks_tenants: false,
        head: HeadLimits::default(),
    };
    let fanout = Fanout::new(id, shards, hasher(), settings.queued_bytes_max);
    Shard::new(Channels::new(fanout, tenants, settings), upgrades)
}
